#include "data/bpe_train.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <set>

#include "data/sha256.h"
#include "data/tokenizer.h"
#include "data_test_util.h"
#include "tests/support/source_path.h"

namespace sluice::data {
namespace {

using Code = absl::StatusCode;
using Json = nlohmann::json;
using ::testing::ElementsAre;

std::string Train(const BpeTrainOptions& options, const std::vector<std::string>& documents) {
  auto trainer = BpeTrainer::Create(options);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  (*trainer)->Add(documents);
  const auto json = (*trainer)->Train();
  EXPECT_TRUE(json.ok()) << json.status();
  return *json;
}

std::vector<std::string> Merges(const std::string& json) {
  return Json::parse(json)["model"]["merges"].get<std::vector<std::string>>();
}

std::string Novel(const std::string& name) {
  return Slurp(testing::SourcePath("data/samples/") + name + ".txt");
}

TEST(BpeTrain, MostFrequentPairFirstThenLowestIds) {
  // "a b" and "c d" 4 times each: a tie that the lower id wins. Then " ab" and "abx" 3 times each:
  // the space, a byte, has a lower id than "ab".
  EXPECT_THAT(Merges(Train({.vocab_size = 260}, {"cd ab\ncd\ncd cd abx abx\nabx"})),
              ElementsAre("a b", "c d", "\xc4\xa0 ab"));
}

TEST(BpeTrain, PairsAreCountedAsTheyOverlap) {
  // As pairs "aaaa" has three "a a"; merged it is "aa aa", and "aa a" never comes to be.
  EXPECT_THAT(Merges(Train({.vocab_size = 300, .min_count = 1}, {"aaaa"})),
              ElementsAre("a a", "aa aa"));
  EXPECT_THAT(Merges(Train({.vocab_size = 300, .min_count = 1}, {"aaaaa"})),
              ElementsAre("a a", "aa a", "aa aaa"));
}

TEST(BpeTrain, StopsWhenPairsAreTooRare) {
  EXPECT_THAT(Merges(Train({.vocab_size = 5000}, {"abc\nab"})), ElementsAre("a b"));
  EXPECT_THAT(Merges(Train({.vocab_size = 5000, .min_count = 3}, {"abc\nab"})), ElementsAre());
}

TEST(BpeTrain, VocabularyHasSpecialTokensBytesAndMergesInThisOrder) {
  const TempDir dir;
  const std::string path =
      dir.Write("tokenizer.json",
                Train({.vocab_size = 300, .special_tokens = {"<|endoftext|>", "<|fim_prefix|>"}},
                      {Novel("emma").substr(0, 5000)}));
  const auto tokenizer = LoadTokenizer(path);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 300);
  EXPECT_EQ((*tokenizer)->eos_id(), 0);
  EXPECT_EQ((*tokenizer)->IdOf("<|fim_prefix|>"), 1);
  // '!' is the first printable byte; the 68 bytes that are not printable come last, 0 first.
  EXPECT_THAT((*tokenizer)->Encode("!"), ElementsAre(2));
  EXPECT_THAT((*tokenizer)->Encode(std::string(1, '\0')), ElementsAre(2 + 188));
  EXPECT_THAT((*tokenizer)->Encode("<|endoftext|>"), ElementsAre(0));
}

TEST(BpeTrain, AnyTextComesBack) {
  const TempDir dir;
  const std::string text = Novel("persuasion");
  const std::string path =
      dir.Write("tokenizer.json", Train({.vocab_size = 1000}, {Novel("emma").substr(0, 200000)}));
  const auto tokenizer = LoadTokenizer(path);
  ASSERT_TRUE(tokenizer.ok());
  for (const std::string& sample : {text, std::string("\xf0\x9f\x98\x80 \xe6\xbc\xa2\r\n\t 12345")})
    EXPECT_EQ(*(*tokenizer)->Decode((*tokenizer)->Encode(sample)), sample);
}

TEST(BpeTrain, ThreadsAndOrderOfDocumentsDoNotMatter) {
  const std::vector<std::string> documents = {Novel("emma"), Novel("persuasion"), "short", ""};
  const std::string one = Train({.vocab_size = 700, .num_threads = 1}, documents);
  EXPECT_EQ(Train({.vocab_size = 700, .num_threads = 3}, documents), one);
  EXPECT_EQ(Train({.vocab_size = 700, .num_threads = 2},
                  {documents[3], documents[1], documents[2], documents[0]}),
            one);
}

// With min_count 0 the merges on the six novels, sorted by name, vocab_size 4096, equal those of
// BpeTrainer in Hugging Face's tokenizers 0.23.3 (initial_alphabet = ByteLevel.alphabet(), special
// token <|endoftext|>); this is the digest of those, one a line, "left right".
TEST(BpeTrain, EqualsHuggingFaceOnTheBundledNovels) {
  std::vector<std::string> novels;
  for (const char* name : {"emma", "mansfieldpark", "northangerabbey", "persuasion",
                           "prideprejudice", "sensesensibility"})
    novels.push_back(Novel(name));
  std::string lines;
  for (const std::string& merge :
       Merges(Train({.vocab_size = 4096, .min_count = 0, .num_threads = 2}, novels)))
    absl::StrAppend(&lines, merge, "\n");
  EXPECT_EQ(Sha256Hex(lines), "c66fad3b175533ef4bb51a6f79d327f05c2e1f6f754297b3cda22f2437e4b8ba");
}

TEST(BpeTrain, BytesThatAreNotUtf8CountAsTheReplacement) {
  EXPECT_EQ(Merges(Train({.vocab_size = 300}, {"\xff\xff\xff"})),
            Merges(Train({.vocab_size = 300}, {"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"})));
}

TEST(BpeTrain, BadOptionsAreRefused) {
  const auto refused = [](const BpeTrainOptions& options, const std::vector<std::string>& parts) {
    ExpectStatus(BpeTrainer::Create(options).status(), Code::kInvalidArgument, parts);
  };
  refused({.vocab_size = 256}, {"256 tokens", "257"});
  refused({.special_tokens = {""}}, {"special token ''"});
  refused({.special_tokens = {"<a>", "<a>"}}, {"'<a>'"});
  refused({.split_pattern = "["}, {"'['"});
  refused({.num_threads = 0}, {"0 threads"});
  const auto trainer = BpeTrainer::Create({});
  ExpectStatus((*trainer)->Train().status(), Code::kFailedPrecondition, {"no text"});
}

}  // namespace
}  // namespace sluice::data
