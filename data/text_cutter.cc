#include "data/text_cutter.h"

#include <cstdint>

#include "data/utf8.h"

namespace sluice::data {

std::vector<absl::string_view> CutLongText(absl::string_view text) {
  constexpr int64_t kMaxPart = 400000, kMaxRun = 25000;
  std::vector<absl::string_view> parts;
  size_t begin = 0;
  int64_t in_part = 0, run = 0;
  bool run_is_space = false;
  absl::string_view rest = text;
  while (!rest.empty()) {
    const size_t at = text.size() - rest.size();
    const uint32_t c = TakeCodePoint(&rest).value_or(0xfffd);
    // What Python's str.isspace has besides White_Space.
    const bool is_space = IsWhiteSpace(c) || (c >= 0x1c && c <= 0x1f);
    bool cut = false;
    if (in_part == kMaxPart) {
      cut = true;
      in_part = 0;
      run = 1;
    } else if (in_part > 0 && is_space == run_is_space) {
      ++run;
      cut = run > kMaxRun;
      if (cut) run = 1;
    } else {
      run = 1;
    }
    run_is_space = is_space;
    ++in_part;
    if (!cut) continue;
    parts.push_back(text.substr(begin, at - begin));
    begin = at;
  }
  if (begin < text.size()) parts.push_back(text.substr(begin));
  return parts;
}

}  // namespace sluice::data
