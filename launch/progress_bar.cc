#include "launch/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_format.h"

namespace sluice::launch {

std::string ProgressText(int64_t done, int64_t total, double seconds) {
  constexpr int kWidth = 30;
  const double share =
      total > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total)) : 1.0;
  const int filled = static_cast<int>(share * kWidth);
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const bool large = total >= 1'000'000'000;
  const double unit = large ? 1e-9 : 1e-6;
  std::string text = absl::StrFormat(
      "[%s%s] %3.0f%%  %.2f of %.2f %s  %.0f MB/s", std::string(filled, '#'),
      std::string(kWidth - filled, '.'), 100 * share, static_cast<double>(done) * unit,
      static_cast<double>(total) * unit, large ? "GB" : "MB", rate * 1e-6);
  if (rate > 0) text += absl::StrFormat("  %.0f s left", static_cast<double>(total - done) / rate);
  return text;
}

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)),
      is_terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      shown_at_(start_) {}

ProgressBar::~ProgressBar() {
  if (has_line_) std::fputc('\n', stderr);
}

void ProgressBar::Show(int64_t done, int64_t total) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (is_terminal_) {
    if (done < total && now - shown_at_ < std::chrono::milliseconds(200)) return;
    shown_at_ = now;
    has_line_ = true;
    std::fprintf(stderr, "\r%s %-80s", what_.c_str(), ProgressText(done, total, seconds).c_str());
    return;
  }
  const int tenths = total > 0 ? static_cast<int>(done * 10 / total) : 10;
  // Short work needs no report.
  if (tenths == tenths_ || seconds < 2) return;
  tenths_ = tenths;
  std::fprintf(stderr, "%s %s\n", what_.c_str(), ProgressText(done, total, seconds).c_str());
}

}  // namespace sluice::launch
