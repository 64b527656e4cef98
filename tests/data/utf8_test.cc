#include "data/utf8.h"

#include <gtest/gtest.h>

#include <set>

#include "data/sha256.h"

namespace sluice::data {
namespace {

std::string Valid(const std::string& text, int64_t expected_replaced) {
  std::string out;
  EXPECT_EQ(AppendAsValidUtf8(text, &out), expected_replaced) << text;
  EXPECT_EQ(IsValidUtf8(text), expected_replaced == 0);
  EXPECT_TRUE(IsValidUtf8(out));
  return out;
}
const std::string kBad = "\xef\xbf\xbd";  // U+FFFD

TEST(Utf8, EveryCodePointIsReadBackAndValid) {
  for (uint32_t c = 0; c <= 0x10ffff; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_TRUE(IsValidUtf8(text)) << c;
    absl::string_view rest = text;
    ASSERT_EQ(TakeCodePoint(&rest), c);
    ASSERT_TRUE(rest.empty());
  }
}

// The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11.
TEST(Utf8, MaximalSubpartsBecomeOneReplacementEach) {
  EXPECT_EQ(Valid("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", 8),
            kBad + kBad + kBad + kBad + kBad + kBad + kBad + kBad + "A");
  EXPECT_EQ(Valid("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", 8),
            kBad + kBad + kBad + kBad + kBad + kBad + kBad + kBad + "A");
  EXPECT_EQ(Valid("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", 7),
            kBad + kBad + kBad + kBad + kBad + "A" + kBad + kBad + "B");
  EXPECT_EQ(Valid("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 4), kBad + kBad + kBad + kBad + "A");
}

TEST(Utf8, ValidTextStaysAsItIs) {
  EXPECT_EQ(Valid("", 0), "");
  const std::string text = "12345678abc \xc3\xa9 12345678 \xf0\x9f\x98\x80";
  EXPECT_EQ(Valid(text, 0), text);
  EXPECT_EQ(Valid("12345678\xc3", 1), "12345678" + kBad);
}

TEST(ByteLevel, AlphabetHas256CharactersAndGoesBothWays) {
  const auto& alphabet = ByteLevelAlphabet();
  EXPECT_EQ(std::set<uint32_t>(alphabet.begin(), alphabet.end()).size(), 256u);
  EXPECT_EQ(alphabet['A'], uint32_t{'A'});
  EXPECT_EQ(alphabet[' '], 0x120u);  // what GPT-2's vocabulary begins its words with
  EXPECT_EQ(alphabet['\n'], 0x10au);
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  EXPECT_EQ(FromByteLevel(ToByteLevel(all)), all);
  EXPECT_FALSE(FromByteLevel("a b"));           // the space is not in the alphabet
  EXPECT_FALSE(FromByteLevel("\xe2\x96\x81"));  // U+2581
  EXPECT_FALSE(FromByteLevel("\xff"));          // not UTF-8
}

// FIPS 180-2, appendix B, and the empty message; the lengths around the padding's edges against
// sha256sum.
TEST(Sha256, KnownDigests) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(Sha256Hex(std::string(55, 'a')),
            "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT_EQ(Sha256Hex(std::string(64, 'a')),
            "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

}  // namespace
}  // namespace sluice::data
