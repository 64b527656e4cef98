// How far long work is: one line that is rewritten on a terminal, a line each tenth elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace sluice::launch {

class ProgressBar {
 public:
  explicit ProgressBar(std::string what);  // "import"
  ~ProgressBar();                          // ends the line on a terminal

  void Show(int64_t done, int64_t total);  // bytes; to stderr

 private:
  const std::string what_;
  const bool is_terminal_;
  const std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point shown_at_;
  int tenths_ = 0;
  bool has_line_ = false;
};

// "[#####.....]  52%  1.04 of 2.00 GB  812 MB/s  1 s left"; below 1 GB in MB
std::string ProgressText(int64_t done, int64_t total, double seconds);

}  // namespace sluice::launch
