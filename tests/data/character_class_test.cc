// Character classes of split patterns against Oniguruma's, code point by code point.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "data/split_pattern.h"
#include "data/utf8.h"
#include "data_test_util.h"

namespace sluice::data {
namespace {

// A mark of Ahom that was Mn and is Mc since Unicode 15.
constexpr uint32_t kReclassified = 0x1171e;

// Which characters of `text` match the class; character i begins at begins[i].
std::vector<bool> Matches(const std::string& name, const std::string& text,
                          const std::vector<size_t>& begins) {
  std::vector<bool> found(begins.size() - 1);
  const auto pattern = SplitPattern::Compile(absl::StrCat("(?:", name, ")+"));
  EXPECT_TRUE(pattern.ok()) << pattern.status();
  if (!pattern.ok()) return found;
  const auto scratch = (*pattern)->NewScratch();
  size_t at = 0;
  for (auto match = (*pattern)->Find(text, 0, *scratch); match;
       match = (*pattern)->Find(text, match->second, *scratch)) {
    while (begins[at] < match->first) ++at;
    for (; begins[at] < match->second; ++at) found[at] = true;
  }
  return found;
}

TEST(CharacterClass, EqualsOnigurumasOnEachCodePoint) {
  std::vector<uint32_t> codes;
  std::vector<size_t> begins;  // of each code point in `text`
  std::string text;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    codes.push_back(c);
    begins.push_back(text.size());
    AppendUtf8(c, &text);
  }
  begins.push_back(text.size());
  // What only the other side's Unicode, which is newer, has assigned.
  const std::vector<bool> unassigned = Matches("\\p{Cn}", text, begins);
  const nlohmann::json golden =
      nlohmann::json::parse(ZstdDecompress(Slurp(GoldenPath("classes.json.zst"))));
  EXPECT_EQ(golden.size(), 43u);
  for (const auto& [name, runs] : golden.items()) {
    std::vector<bool> wanted;
    bool value = false;
    for (const size_t length : runs) {
      wanted.resize(wanted.size() + length, value);
      value = !value;
    }
    wanted.resize(codes.size(), false);
    const std::vector<bool> found = Matches(name, text, begins);
    int wrong = 0;
    for (size_t i = 0; i < codes.size(); ++i) {
      if (found[i] == wanted[i] || unassigned[i] || codes[i] == kReclassified) continue;
      if (++wrong <= 3)
        ADD_FAILURE() << name << ": U+" << std::hex << codes[i] << std::dec << " is "
                      << (found[i] ? "in" : "out") << ", Oniguruma says otherwise";
    }
    EXPECT_EQ(wrong, 0) << name;
  }
}

}  // namespace
}  // namespace sluice::data
