#include "data/utf8.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace sluice::data {
namespace {

constexpr uint32_t kReplacement = 0xfffd;

size_t AsciiPrefix(absl::string_view text) {
  size_t n = 0;
  for (; n + 8 <= text.size(); n += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + n, 8);
    if (word & 0x8080808080808080ull) break;
  }
  while (n < text.size() && static_cast<uint8_t>(text[n]) < 0x80) ++n;
  return n;
}

std::array<uint32_t, 256> MakeAlphabet() {
  std::array<uint32_t, 256> alphabet{};
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xff && b != 0xad);
    alphabet[b] = printable ? b : next++;
  }
  return alphabet;
}

}  // namespace

void AppendUtf8(uint32_t c, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6), put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12), put(0x80 | (c >> 6 & 0x3f)), put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | c >> 18), put(0x80 | (c >> 12 & 0x3f)), put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

std::optional<uint32_t> TakeCodePoint(absl::string_view* text) {
  const uint8_t first = static_cast<uint8_t>((*text)[0]);
  text->remove_prefix(1);
  if (first < 0x80) return first;
  // Table 3-7 of the standard: only the second byte has a range other than 80..bf.
  int more;
  uint8_t low = 0x80, high = 0xbf;
  if (first >= 0xc2 && first <= 0xdf) {
    more = 1;
  } else if (first >= 0xe0 && first <= 0xef) {
    more = 2;
    if (first == 0xe0) low = 0xa0;
    if (first == 0xed) high = 0x9f;
  } else if (first >= 0xf0 && first <= 0xf4) {
    more = 3;
    if (first == 0xf0) low = 0x90;
    if (first == 0xf4) high = 0x8f;
  } else {
    return std::nullopt;
  }
  uint32_t c = first & (0x3f >> more);
  for (int i = 0; i < more; ++i) {
    if (text->empty()) return std::nullopt;
    const uint8_t byte = static_cast<uint8_t>((*text)[0]);
    if (byte < low || byte > high) return std::nullopt;
    c = c << 6 | (byte & 0x3f);
    text->remove_prefix(1);
    low = 0x80, high = 0xbf;
  }
  return c;
}

std::pair<uint32_t, size_t> CharacterBefore(absl::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xc0) == 0x80) --begin;
  absl::string_view one = text.substr(begin, end - begin);
  return {TakeCodePoint(&one).value_or(0), begin};
}

bool IsWhiteSpace(uint32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool IsValidUtf8(absl::string_view text) {
  while (true) {
    text.remove_prefix(AsciiPrefix(text));
    if (text.empty()) return true;
    if (!TakeCodePoint(&text)) return false;
  }
}

int64_t AppendAsValidUtf8(absl::string_view text, std::string* out) {
  int64_t replaced = 0;
  out->reserve(out->size() + text.size());
  while (!text.empty()) {
    const size_t ascii = AsciiPrefix(text);
    out->append(text.data(), ascii);
    text.remove_prefix(ascii);
    if (text.empty()) break;
    const absl::string_view before = text;
    if (TakeCodePoint(&text)) {
      out->append(before.data(), before.size() - text.size());
    } else {
      AppendUtf8(kReplacement, out);
      ++replaced;
    }
  }
  return replaced;
}

std::string ReplacedText(int64_t num_replaced) {
  return absl::StrCat(num_replaced, num_replaced == 1 ? " place was" : " places were",
                      " not UTF-8 and became U+FFFD");
}

const std::array<uint32_t, 256>& ByteLevelAlphabet() {
  static const std::array<uint32_t, 256> alphabet = MakeAlphabet();
  return alphabet;
}

std::string ToByteLevel(absl::string_view bytes) {
  std::string symbols;
  for (const char byte : bytes)
    AppendUtf8(ByteLevelAlphabet()[static_cast<uint8_t>(byte)], &symbols);
  return symbols;
}

std::optional<std::string> FromByteLevel(absl::string_view symbols) {
  // 256 + the 68 bytes that do not stand for themselves.
  static const auto byte_of = [] {
    std::array<int, 324> table;
    table.fill(-1);
    for (int b = 0; b < 256; ++b) table[ByteLevelAlphabet()[b]] = b;
    return table;
  }();
  std::string bytes;
  while (!symbols.empty()) {
    const auto c = TakeCodePoint(&symbols);
    if (!c || *c >= byte_of.size() || byte_of[*c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte_of[*c]));
  }
  return bytes;
}

}  // namespace sluice::data
