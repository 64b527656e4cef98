#include "data/tokenizer.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "data/split_pattern.h"
#include "data/text_cutter.h"
#include "data_test_util.h"

namespace sluice::data {
namespace {

using Code = absl::StatusCode;
using Json = nlohmann::json;
using ::testing::ElementsAre;

// A vocabulary of the 256 bytes (ids 0 to 255 in order of the byte) and merges of ASCII tokens.
Json SmallTokenizer(const std::vector<std::string>& merges = {}) {
  Json vocab = Json::object(), list = Json::array();
  for (int b = 0; b < 256; ++b) {
    // The alphabet, told here once more: printable bytes are themselves.
    const bool same = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
    const int c = same ? b : b <= 0x20 ? 0x100 + b : b == 0xad ? 0x143 : 0x121 + b - 0x7f;
    std::string utf8;
    if (c < 0x80) {
      utf8 = static_cast<char>(c);
    } else {
      utf8 = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    }
    vocab[utf8] = b;
  }
  for (const std::string& merge : merges) {
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    if (!vocab.contains(joined)) vocab[joined] = vocab.size();
    list.push_back(merge);
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  return {{"added_tokens", Json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}}}};
}

Json Added(const std::string& content, int id, bool special = true) {
  return {{"id", id}, {"content", content}, {"special", special}};
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const Json& json, const TempDir& dir = TempDir()) {
  return LoadTokenizer(dir.Write("tokenizer.json", json.dump()));
}

std::vector<int32_t> Ids(const Json& json) { return json.get<std::vector<int32_t>>(); }

TEST(Tokenizer, EqualsHuggingFaceOnDeepSeekV3) {
  const TempDir dir;
  const std::string path = dir.Write(
      "tokenizer.json", ZstdDecompress(Slurp(GoldenPath("deepseek_v3.tokenizer.json.zst"))));
  const auto tokenizer = LoadTokenizer(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 128815);
  EXPECT_EQ((*tokenizer)->bos_id(), 0);
  EXPECT_EQ((*tokenizer)->eos_id(), 1);
  EXPECT_EQ((*tokenizer)->hash(),
            "621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41");
  std::istringstream lines(ZstdDecompress(Slurp(GoldenPath("deepseek_v3.golden.jsonl.zst"))));
  std::string line;
  int count = 0;
  for (; std::getline(lines, line); ++count) {
    const Json golden = Json::parse(line);
    const std::vector<int32_t> ids = (*tokenizer)->Encode(golden["text"].get<std::string>());
    EXPECT_EQ(ids, Ids(golden["ids"])) << line;
    EXPECT_EQ(*(*tokenizer)->Decode(ids), golden["decoded"].get<std::string>()) << line;
  }
  EXPECT_EQ(count, 160);
}

// A file of several tokenizers: its first line is a tokenizer.json, then come lines of variants,
// each followed by its texts. make(base, line) -> the variant's json; expect(tokenizer, line) for a
// text.
template <typename Make, typename Expect>
void ForEachTextOfVariants(const std::string& file, int texts, const Make& make,
                           const Expect& expect) {
  std::istringstream lines(ZstdDecompress(Slurp(GoldenPath(file))));
  std::string line, variant;
  std::getline(lines, line);
  const Json base = Json::parse(line);
  std::unique_ptr<Tokenizer> tokenizer;
  int count = 0;
  while (std::getline(lines, line)) {
    const Json golden = Json::parse(line);
    SCOPED_TRACE(variant + ": " + line);
    if (golden.contains("variant")) {
      variant = golden["variant"].get<std::string>();
      auto loaded = Load(make(base, golden));
      ASSERT_TRUE(loaded.ok()) << variant << ": " << loaded.status();
      tokenizer = *std::move(loaded);
      continue;
    }
    ASSERT_TRUE(tokenizer->Decode(Ids(golden["ids"])).ok());
    EXPECT_EQ(*tokenizer->Decode(Ids(golden["ids"])), golden["decoded"].get<std::string>());
    EXPECT_EQ(*tokenizer->Decode(Ids(golden["ids"]), true), golden["skipped"].get<std::string>());
    expect(*tokenizer, golden);
    ++count;
  }
  EXPECT_EQ(count, texts);
}

Json PartsVariant(Json json, const Json& line) {
  for (const char* part : {"pre_tokenizer", "normalizer", "added_tokens"}) json[part] = line[part];
  json["model"]["ignore_merges"] = line["ignore_merges"];
  return json;
}

TEST(Tokenizer, EqualsHuggingFaceOnVariants) {
  ForEachTextOfVariants("variants.jsonl.zst", 25 * 50, PartsVariant,
                        [](const Tokenizer& tokenizer, const Json& golden) {
                          EXPECT_EQ(tokenizer.Encode(golden["text"].get<std::string>()),
                                    Ids(golden["ids"]));
                        });
}

// See make_character_variants.py for the lines.
Json CharacterVariant(Json json, const Json& line) {
  for (const auto& [part, value] : line["parts"].items()) json[part] = value;
  Json& model = json["model"];
  for (const auto& [field, value] : line["model"].items()) model[field] = value;
  for (const auto& [token, id] : line["tokens"].items()) model["vocab"][token] = id;
  for (const Json& merge : line["merges"]) model["merges"].push_back(merge);
  for (const Json& token : line["remove"]) model["vocab"].erase(token.get<std::string>());
  return json;
}

TEST(Tokenizer, EqualsHuggingFaceOnCharacterVocabularies) {
  ForEachTextOfVariants("character_variants.jsonl.zst", 26 * 40, CharacterVariant,
                        [](const Tokenizer& tokenizer, const Json& golden) {
                          const std::string text = golden["text"].get<std::string>();
                          EXPECT_EQ(tokenizer.Encode(text), Ids(golden["ids"]));
                          EXPECT_EQ(tokenizer.EncodeWithSpecialTokens(text),
                                    Ids(golden["special"]));
                        });
}

TEST(Tokenizer, EqualsTiktokenWithMoonshotsPattern) {
  std::istringstream lines(ZstdDecompress(Slurp(GoldenPath("tiktoken.jsonl.zst"))));
  std::string line;
  std::getline(lines, line);
  const Json files = Json::parse(line);
  const TempDir dir;
  dir.Write("tokenizer_config.json", files["config"].dump());
  const auto tokenizer =
      LoadTokenizer(dir.Write("tiktoken.model", files["model"].get<std::string>()));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), (*tokenizer)->vocab_size() - 256);
  EXPECT_EQ((*tokenizer)->eos_id(), (*tokenizer)->vocab_size() - 255);
  int count = 0;
  for (; std::getline(lines, line); ++count) {
    const Json golden = Json::parse(line);
    const std::string text = golden["text"].get<std::string>();
    EXPECT_EQ((*tokenizer)->Encode(text), Ids(golden["ids"])) << line;
    EXPECT_EQ((*tokenizer)->Encode(text, {.added_tokens = AddedTokens::kNone}),
              Ids(golden["plain"]))
        << line;
    EXPECT_EQ(*(*tokenizer)->Decode(Ids(golden["ids"])), golden["decoded"].get<std::string>());
  }
  EXPECT_EQ(count, 400);
  ExpectStatus(LoadTokenizer(dir.Write("tiktoken.model", "IQ== 0\nIg== 1\n%% 2\n")).status(),
               Code::kInvalidArgument, {"tiktoken.model, line 3", "base64"});
}

// The ranks alone do not say how text is cut; Llama 3 and others have files that look the same.
TEST(Tokenizer, RanksOfAnotherFamilyAreRefused) {
  const TempDir dir;
  const std::string path = dir.Write("tiktoken.model", "IQ== 0\nIg== 1\n");
  ExpectStatus(LoadTokenizer(path).status(), Code::kInvalidArgument,
               {path, "no tokenizer_class", "'TikTokenTokenizer'"});
  dir.Write("tokenizer_config.json", R"({"tokenizer_class": "QWenTokenizer"})");
  ExpectStatus(LoadTokenizer(path).status(), Code::kInvalidArgument,
               {"tokenizer_class 'QWenTokenizer'"});
  dir.Write("tokenizer_config.json", R"({"tokenizer_class": "TikTokenTokenizer"})");
  EXPECT_TRUE(LoadTokenizer(path).ok());
}

// Lengths in characters: 400000 a part, 25000 of white space or of other characters in a row.
TEST(Tokenizer, LongTextsAreCutAsMoonshotDoes) {
  const auto lengths = [](const std::string& text) {
    std::vector<size_t> result;
    std::string joined;
    for (const absl::string_view part : CutLongText(text)) {
      result.push_back(part.size());
      joined.append(part.data(), part.size());
    }
    EXPECT_EQ(joined, text);
    return result;
  };
  const auto run = [](int count, const std::string& one) {
    std::string text;
    for (int i = 0; i < count; ++i) text += one;
    return text;
  };
  EXPECT_THAT(lengths(run(25000, "a")), ElementsAre(25000));
  EXPECT_THAT(lengths(run(25001, "a")), ElementsAre(25000, 1));
  EXPECT_THAT(lengths(run(25001, "\xc3\xa9") + " b"), ElementsAre(50000, 4));
  EXPECT_THAT(lengths(run(25000, "a") + run(25001, "\x1c")), ElementsAre(50000, 1));
  EXPECT_THAT(lengths(run(200001, "a ")), ElementsAre(400000, 2));
  EXPECT_TRUE(lengths("").empty());
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  const auto tokenizer = Load(SmallTokenizer({"b c", "a b", "a a", "aa a"}));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("abc"), ElementsAre('a', 256));
  EXPECT_THAT((*tokenizer)->Encode("ab"), ElementsAre(257));
  EXPECT_THAT((*tokenizer)->Encode("aaaaa"), ElementsAre(258, 259));
  EXPECT_TRUE((*tokenizer)->Encode("").empty());
}

// Words above 96 bytes take another path than short ones.
TEST(Tokenizer, LongWordsMergeAsShortOnes) {
  const auto tokenizer = Load(SmallTokenizer({"a b", "ab ab", "abab abab", "b a", "b b"}));
  ASSERT_TRUE(tokenizer.ok());
  for (int repeats = 1; repeats < 60; ++repeats) {
    std::string word;
    std::vector<int32_t> wanted;
    for (int i = 0; i < repeats; ++i) word += "abababab", wanted.push_back(258);
    EXPECT_EQ((*tokenizer)->Encode(word), wanted) << repeats;
    EXPECT_EQ((*tokenizer)->Encode(word + "b").back(), 'b');
  }
}

TEST(Tokenizer, EveryByteStringHasIdsAndDecodesToItsValidForm) {
  const auto tokenizer = Load(SmallTokenizer());
  ASSERT_TRUE(tokenizer.ok());
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  const std::vector<int32_t> ids = (*tokenizer)->Encode(all);
  // 0x80 to 0xff are no UTF-8 in this order: each becomes the three bytes of U+FFFD.
  EXPECT_EQ(ids.size(), 128u + 128u * 3u);
  const std::string zero("a\0b", 3);
  EXPECT_EQ(*(*tokenizer)->Decode((*tokenizer)->Encode(zero)), zero);
  // An id alone may be a part of a character.
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{0xc3}), "\xef\xbf\xbd");
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{0xc3, 0xa9}), "\xc3\xa9");
}

TEST(Tokenizer, IdsThatAreNoTokensAreRefused) {
  Json json = SmallTokenizer();
  json["added_tokens"].push_back(Added("<|endoftext|>", 300));
  const auto tokenizer = Load(json);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->vocab_size(), 301);
  EXPECT_EQ((*tokenizer)->eos_id(), 300);
  EXPECT_EQ((*tokenizer)->bos_id(), -1);
  EXPECT_EQ((*tokenizer)->IdOf("<|endoftext|>"), 300);
  EXPECT_EQ((*tokenizer)->IdOf("a"), -1);
  for (const int32_t bad : {-1, 299, 301})
    ExpectStatus((*tokenizer)->Decode(std::vector<int32_t>{65, bad}).status(),
                 Code::kInvalidArgument, {absl::StrCat("token id ", bad)});
}

TEST(Tokenizer, PostProcessorGivesBosAndEos) {
  Json json = SmallTokenizer();
  json["added_tokens"] = {Added("<s>", 256), Added("</s>", 257)};
  json["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single",
          {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
           {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
           {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}}}},
         {"special_tokens", {{"<s>", {{"ids", {256}}}}, {"</s>", {{"ids", {257}}}}}}}}}};
  const auto tokenizer = Load(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("a"), ElementsAre('a'));
  EXPECT_THAT((*tokenizer)->EncodeWithSpecialTokens("a"), ElementsAre(256, 'a', 257));
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{256, 'a', 257}), "<s>a</s>");
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{256, 'a', 257}, true), "a");
}

TEST(Tokenizer, ConfigBesideItNamesBosAndEos) {
  const TempDir dir;
  Json json = SmallTokenizer();
  json["added_tokens"] = {Added("<one>", 256), Added("<two>", 257), Added("</s>", 258)};
  dir.Write("tokenizer_config.json",
            R"({"bos_token": "<one>", "eos_token": {"content": "<two>"}, "add_bos_token": true})");
  const auto tokenizer = Load(json, dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->bos_id(), 256);
  EXPECT_EQ((*tokenizer)->eos_id(), 257);
  EXPECT_THAT((*tokenizer)->EncodeWithSpecialTokens("a"), ElementsAre(256, 'a'));

  dir.Write("tokenizer_config.json", R"({"eos_token": "<three>"})");
  ExpectStatus(Load(json, dir).status(), Code::kInvalidArgument,
               {dir.File("tokenizer_config.json"), "<three>"});
}

// As transformers 5.24 does with the same two files.
TEST(Tokenizer, TokensThatOnlyTheConfigurationHasAreAdded) {
  const TempDir dir;
  Json json = SmallTokenizer({"a b", "ab c"});
  json["added_tokens"] = {Added("</s>", 258)};
  const Json more = {{"257", {{"content", "abc"}}},
                     {"258", {{"content", "</s>"}}},
                     {"259", {{"content", "<new>"}, {"special", true}, {"lstrip", true}}}};
  const auto config = [&](const Json& tokens, const char* bos) {
    dir.Write(
        "tokenizer_config.json",
        Json{{"added_tokens_decoder", tokens}, {"bos_token", bos}, {"eos_token", "</s>"}}.dump());
    return Load(json, dir);
  };
  const auto tokenizer = config(more, "ab");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 260);
  EXPECT_EQ((*tokenizer)->bos_id(), 256);
  EXPECT_THAT((*tokenizer)->Encode("xabcy  <new>ab</s>"),
              ElementsAre('x', 256, 'c', 'y', 259, 256, 258));
  EXPECT_EQ(*(*tokenizer)->Decode(std::vector<int32_t>{'x', 257, 259, 256}, true), "xabc");
  EXPECT_NE((*tokenizer)->hash(), (*Load(json))->hash());  // other tokens, so other token files
  const Json taken = {{"97", {{"content", "<new>"}}}};
  ExpectStatus(config(taken, "</s>").status(), Code::kInvalidArgument,
               {"tokenizer_config.json", "'<new>'", "97", "gives to 'a'"});
}

TEST(Tokenizer, ThreadsShareOne) {
  const auto tokenizer = Load(SmallTokenizer({"a b", "ab c", "t h", "th e"}));
  ASSERT_TRUE(tokenizer.ok());
  const std::string text = "the abc of the cab: the abbey";
  const std::vector<int32_t> wanted = (*tokenizer)->Encode(text);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) wrong += (*tokenizer)->Encode(text) != wanted;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// The cache of words holds 65536 of them and then starts anew.
TEST(Tokenizer, MoreWordsThanTheCacheHolds) {
  const auto tokenizer = Load(SmallTokenizer({"1 2", "12 3"}));
  ASSERT_TRUE(tokenizer.ok());
  std::string text;
  for (int i = 0; i < 150000; ++i) text += absl::StrCat(" ", i);
  const std::vector<int32_t> ids = (*tokenizer)->Encode(text);
  EXPECT_EQ(*(*tokenizer)->Decode(ids), text);
  EXPECT_EQ((*tokenizer)->Encode(text), ids);
  EXPECT_THAT((*tokenizer)->Encode(" 1230"), ElementsAre(' ', 257, '0'));
}

TEST(Tokenizer, UnsupportedConstructsAreRefusedByName) {
  const auto refused = [](const std::string& path, const Json& value,
                          const std::vector<std::string>& parts) {
    Json json = SmallTokenizer();
    json[Json::json_pointer(path)] = value;
    const TempDir dir;
    std::vector<std::string> all = parts;
    all.push_back(dir.File("tokenizer.json"));
    ExpectStatus(Load(json, dir).status(), Code::kInvalidArgument, all);
  };
  refused("/normalizer", {{"type", "Nmt"}}, {"normalizer 'Nmt'"});
  refused("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Precompiled"}}}}},
          {"normalizer 'Precompiled'"});
  refused("/pre_tokenizer", {{"type", "UnicodeScripts"}}, {"pre-tokenizer 'UnicodeScripts'"});
  refused("/pre_tokenizer",
          {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "twice"}},
          {"prepend_scheme", "twice"});
  refused(
      "/pre_tokenizer",
      {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}},
      {"after ByteLevel", "'Digits'"});
  const auto split = [](const Json& pattern, const std::string& behavior) -> Json {
    return {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}},
              {{"type", "ByteLevel"}}}}};
  };
  refused("/pre_tokenizer", split({{"Regex", "a"}}, "Shuffled"), {"behavior 'Shuffled'"});
  refused("/pre_tokenizer", split({{"Glob", "a"}}, "Isolated"), {"the pattern", "Glob"});
  refused("/pre_tokenizer", split({{"Regex", "a("}}, "Isolated"), {"'a('", "does not compile"});
  refused("/pre_tokenizer", split({{"Regex", "[a&&b]"}}, "Isolated"), {"'[a&&b]'", "&&"});
  refused("/post_processor", {{"type", "Other"}}, {"post-processor 'Other'"});
  refused("/post_processor", Json::parse(R"({"type": "Sequence", "processors": [
      {"type": "RobertaProcessing", "cls": ["a", 1], "sep": ["b", 2]},
      {"type": "BertProcessing", "cls": ["a", 1], "sep": ["b", 2]}]})"),
          {"second post-processor"});
  refused("/post_processor", Json::parse(R"({"type": "TemplateProcessing", "single": [],
      "special_tokens": {}})"),
          {"template"});
  refused("/decoder", {{"type", "WordPiece"}}, {"decoder 'WordPiece'"});
  refused("/model/type", "Unigram", {"model 'Unigram'"});
  refused("/model/dropout", 0.1, {"dropout", "0.1"});
  refused("/model/end_of_word_suffix", "</w>", {"end_of_word_suffix", "</w>"});
  refused("/model/continuing_subword_prefix", "##", {"continuing_subword_prefix", "##"});
}

TEST(Tokenizer, DamagedFilesAreOneClearSentence) {
  const TempDir dir;
  ExpectStatus(LoadTokenizer(dir.File("none")).status(), Code::kNotFound, {dir.File("none")});
  for (const char* text : {"", "{", "[]", "{}", "{\"model\": 3}"})
    ExpectStatus(LoadTokenizer(dir.Write("t", text)).status(), Code::kInvalidArgument,
                 {dir.File("t")});
  std::string deep = "{\"normalizer\": ";
  for (int i = 0; i < 50000; ++i) deep += "{\"type\": \"Sequence\", \"normalizers\": [";
  for (int i = 0; i < 50000; ++i) deep += "]}";
  ExpectStatus(LoadTokenizer(dir.Write("t", deep + "}")).status(), Code::kInvalidArgument,
               {dir.File("t"), "nests too deeply"});
  const auto refused = [&dir](const Json& json, const std::vector<std::string>& parts) {
    ExpectStatus(Load(json, dir).status(), Code::kInvalidArgument, parts);
  };
  Json json = SmallTokenizer({"a b"});
  json["model"]["merges"].push_back("ab q");
  refused(json, {"merge 1", "'abq' is not in the vocabulary"});
  json = SmallTokenizer();
  json["model"]["merges"].push_back("abc");
  refused(json, {"'abc'", "two tokens"});
  json = SmallTokenizer();
  json["model"]["vocab"]["xx"] = 5;
  refused(json, {"id 5 is given twice"});
  json = SmallTokenizer();
  json["model"]["vocab"]["xx"] = 2000000000;
  refused(json, {"'xx'", "2000000000"});
  json = SmallTokenizer();
  json["model"]["vocab"]["xx"] = -1;
  refused(json, {"'xx'", "-1"});
  json = SmallTokenizer();
  json["model"]["unk_token"] = "<unk>";
  refused(json, {"unk_token '<unk>'"});
}

TEST(Tokenizer, MergesMayBeWrittenAsPairs) {
  Json json = SmallTokenizer({"a b"});
  json["model"]["merges"] = Json::array({Json::array({"a", "b"})});
  const auto tokenizer = Load(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->Encode("ab"), ElementsAre(256));
}

TEST(SplitPattern, TranslatesWhatTheDialectsReadDifferently) {
  EXPECT_EQ(*TranslateOniguruma(R"([^\s\p{L}]\S)"), R"([^\p{White_Space}\p{L}]\P{White_Space})");
  EXPECT_EQ(*TranslateOniguruma(R"(\p{Han}\p{^Lu}\u4e00\x41\x{10FFFF})"),
            R"(\p{sc:Han}\p{^Lu}\x{4e00}\x{41}\x{10FFFF})");
  EXPECT_EQ(*TranslateOniguruma("[]a](?:b)(?i:c)a{1,3}"), "[\\]a](?:b)(?i:c)a{1,3}");
}

TEST(SplitPattern, RefusesWhatItCannotTranslate) {
  for (const char* pattern :
       {"[a[b]]",  "[a&&b]", "[[:alpha:]]", "a{1,2}+", "a{,2}", "(?m:.)",    "a(?i)b",
        "(?<x>a)", "\\h",    "\\R",         "\\K",     "\\X",   "\\b",       "\\1",
        "[\\W]",   "\\x80",  "\\pL",        "[a",      "a\\",   "\\p{Nope}", "(*UTF)"})
    ExpectStatus(SplitPattern::Compile(pattern).status(), Code::kInvalidArgument, {pattern});
}

TEST(SplitPattern, SpacesAreUnicodeWhiteSpace) {
  const auto pattern = SplitPattern::Compile("\\s");
  ASSERT_TRUE(pattern.ok());
  const auto scratch = (*pattern)->NewScratch();
  const auto matches = [&](const std::string& text) {
    return (*pattern)->Find(text, 0, *scratch).has_value();
  };
  for (const char* space : {" ", "\t", "\x0b", "\r", "\xc2\x85", "\xc2\xa0", "\xe3\x80\x80"})
    EXPECT_TRUE(matches(space));
  // U+180E, which PCRE2's own \s matches, U+200B and U+FEFF are none.
  for (const char* other : {"a", "\xe1\xa0\x8e", "\xe2\x80\x8b", "\xef\xbb\xbf", "\x1c"})
    EXPECT_FALSE(matches(other));
}

TEST(SplitPattern, DeepBacktrackingStillMatches) {
  const auto pattern = SplitPattern::Compile("(?:a|ab)+c");
  ASSERT_TRUE(pattern.ok());
  const auto scratch = (*pattern)->NewScratch();
  std::string text(300000, 'a');
  text += 'c';
  const auto match = (*pattern)->Find(text, 0, *scratch);
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->second - match->first, text.size());
}

}  // namespace
}  // namespace sluice::data
