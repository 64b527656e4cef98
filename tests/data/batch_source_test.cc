#include "data/batch_source.h"

#include <gmock/gmock.h>

#include <map>
#include <numeric>
#include <set>

#include "data/mixture.h"
#include "data/permutation.h"
#include "data/token_stream.h"
#include "data_test_util.h"

namespace sluice::data {
namespace {

using Code = absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

std::vector<int32_t> ReadSamples(const BatchSource& source, int64_t first, int count,
                                 DocumentStarts* starts = nullptr) {
  std::vector<int32_t> tokens(static_cast<size_t>(count) * (source.sequence_length() + 1));
  const absl::Status status = source.Read(first, count, tokens, starts);
  EXPECT_TRUE(status.ok()) << status;
  return tokens;
}

TEST(Permutation, IsABijectionThatTheKeyChooses) {
  for (const int64_t size : {1, 2, 3, 4, 5, 31, 32, 33, 1009, 65537}) {
    std::set<int64_t> seen;
    const Permutation permutation(size, 7);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t at = permutation(i);
      EXPECT_TRUE(at >= 0 && at < size);
      EXPECT_EQ(permutation(i), at);
      seen.insert(at);
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(size));
  }
  const Permutation a(1000, 1), b(1000, 2);
  int same = 0;
  for (int64_t i = 0; i < 1000; ++i) same += a(i) == b(i);
  // Two random permutations agree in Poisson(1) places; more than 9 has probability 1e-7.
  EXPECT_LE(same, 9);
}

TEST(Permutation, SpreadsNeighbours) {
  // Over many keys, index 0 and 1 must land anywhere: chi-square of 16 cells with 4800 draws has
  // mean 15 and standard deviation 5.5; 50 is more than six of them away.
  for (const int64_t index : {0, 1}) {
    std::vector<int> cells(16);
    for (uint64_t key = 0; key < 4800; ++key) ++cells[Permutation(1600, key)(index) / 100];
    double chi = 0;
    for (const int count : cells) chi += (count - 300.0) * (count - 300.0) / 300;
    EXPECT_LT(chi, 50);
  }
}

TEST(Mixture, EveryBlockHoldsTheWeightsAndEverySampleOnce) {
  const std::vector<double> weights = {0.7, 0.2, 0.1, 1e-9};
  const Mixture mixture(weights, 3);
  EXPECT_EQ(mixture.PerBlock(0), 2867);  // 0.7 of 4096 is 2867.2
  EXPECT_EQ(mixture.PerBlock(1), 819);
  EXPECT_EQ(mixture.PerBlock(2), 409);  // 409.6, but the last source needs one
  EXPECT_EQ(mixture.PerBlock(3), 1);
  std::vector<std::set<int64_t>> seen(4);
  for (int64_t sample = 0; sample < 3 * Mixture::kBlock; ++sample) {
    const auto place = mixture.At(sample);
    EXPECT_TRUE(seen[place.source].insert(place.index).second);
  }
  for (int s = 0; s < 4; ++s) {
    EXPECT_EQ(seen[s].size(), static_cast<size_t>(3 * mixture.PerBlock(s)));
    EXPECT_EQ(*seen[s].rbegin(), 3 * mixture.PerBlock(s) - 1);
  }
}

TEST(Mixture, OfOneSourceAndOfMany) {
  const Mixture one(std::vector<double>{5}, 3);
  EXPECT_EQ(one.PerBlock(0), Mixture::kBlock);
  const Mixture many(std::vector<double>(1000, 1.0), 3);
  for (int s = 0; s < 1000; ++s) EXPECT_THAT(many.PerBlock(s), ::testing::AnyOf(4, 5));
}

struct Files {
  TempDir dir;
  std::string a = WriteTokens(dir.File("a"), {40, 3, 58});
  std::string b = WriteTokens(dir.File("b"), {100}, {.vocab_size = 1000, .eos_id = 0}, 500);
};

TEST(BatchSource, ASampleDoesNotDependOnHowItIsAskedFor) {
  const Files files;
  const auto source = MakeBatchSource(
      {.sources = {{.paths = {files.a}, .weight = 3}, {.paths = {files.b}, .weight = 1}},
       .sequence_length = 7,
       .seed = 11,
       .fim_rate = 0.5,
       .fim_tokens = {997, 998, 999}});
  ASSERT_TRUE(source.ok()) << source.status();
  DocumentStarts all_starts;
  const std::vector<int32_t> all = ReadSamples(**source, 0, 200, &all_starts);
  for (const auto& [first, count] : {std::pair{0, 1}, {1, 2}, {17, 13}, {199, 1}, {5, 0}}) {
    DocumentStarts starts;
    const auto tokens = ReadSamples(**source, first, count, &starts);
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), all.begin() + first * 8));
    for (int i = 0; i < count; ++i)
      EXPECT_THAT(starts.Of(i), ElementsAreArray(all_starts.Of(first + i)));
  }
}

TEST(BatchSource, AnEpochHoldsEachWindowOnceInAnOrderOfItsOwn) {
  const Files files;
  // 201 tokens as one stream: (201 - 1) / 10 samples, no token is lost.
  const auto source = MakeBatchSource(
      {.sources = {{.paths = {files.a}}, {.paths = {files.b}}}, .sequence_length = 10, .seed = 5});
  ASSERT_TRUE(source.ok());
  ASSERT_EQ((*source)->num_samples_per_epoch(), 20);
  std::vector<int32_t> stream(201);
  ASSERT_TRUE((*TokenStream::Open({files.a, files.b}, ""))->Read(0, stream).ok());
  std::vector<std::vector<int>> orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<int> order;
    for (int i = 0; i < 20; ++i) {
      const auto tokens = ReadSamples(**source, epoch * 20 + i, 1);
      const auto at = std::search(stream.begin(), stream.end(), tokens.begin(), tokens.end());
      ASSERT_NE(at, stream.end());
      order.push_back(static_cast<int>(at - stream.begin()) / 10);
    }
    EXPECT_EQ(std::set<int>(order.begin(), order.end()).size(), 20u);
    orders.push_back(order);
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
}

TEST(BatchSource, TheSeedChoosesTheOrderAndNoShuffleKeepsIt) {
  const Files files;
  BatchSourceOptions options{.sources = {{.paths = {files.a}}}, .sequence_length = 5, .seed = 1};
  const auto one = ReadSamples(**MakeBatchSource(options), 0, 20);
  EXPECT_EQ(ReadSamples(**MakeBatchSource(options), 0, 20), one);
  options.seed = 2;
  EXPECT_NE(ReadSamples(**MakeBatchSource(options), 0, 20), one);
  options.shuffle = false;
  const auto plain = ReadSamples(**MakeBatchSource(options), 0, 20);
  for (int i = 0; i < 20; ++i)
    for (int j = 0; j <= 5; ++j) EXPECT_EQ(plain[i * 6 + j], (5 * i + j) * 7 % 1000);
}

TEST(BatchSource, DocumentStartsAreWhereFilesAndDocumentsBegin) {
  const Files files;  // documents begin at 0, 40, 43 and, in the second file, at 101
  const auto source = MakeBatchSource(
      {.sources = {{.paths = {files.a, files.b}}}, .sequence_length = 20, .shuffle = false});
  ASSERT_TRUE(source.ok());
  DocumentStarts starts;
  ReadSamples(**source, 0, 10, &starts);
  EXPECT_THAT(starts.Of(0), ElementsAre(0));
  // Document 1 begins at token 40: the last target of sample 1, the first input of sample 2.
  EXPECT_THAT(starts.Of(1), ElementsAre(0, 20));
  EXPECT_THAT(starts.Of(2), ElementsAre(0, 3));
  EXPECT_THAT(starts.Of(3), ElementsAre(0));
  EXPECT_THAT(starts.Of(5), ElementsAre(0, 1));
}

TEST(BatchSource, WeightsMixSourcesAndEachIsReadInEpochs) {
  const Files files;
  const auto source = MakeBatchSource(
      {.sources = {{.paths = {files.a}, .weight = 1}, {.paths = {files.b}, .weight = 3}},
       .sequence_length = 9});
  ASSERT_TRUE(source.ok());
  EXPECT_EQ((*source)->num_samples_per_epoch(), 100 / 9 + 99 / 9);
  std::map<std::vector<int32_t>, int> seen;
  for (int i = 0; i < 4096; ++i) ++seen[ReadSamples(**source, i, 1)];
  EXPECT_EQ(seen.size(), 22u);
  int from_a = 0;
  for (const auto& [tokens, count] : seen) {
    const bool is_a = tokens[0] % 7 == 0 && tokens[0] < 7 * 101;
    if (is_a) from_a += count;
    // 1024 samples over 11 windows of a, 3072 over 11 of b: every window equally often but for the
    // epoch that has begun.
    EXPECT_NEAR(count, is_a ? 1024 / 11 : 3072 / 11, 1);
  }
  EXPECT_EQ(from_a, 1024);
}

TEST(SequentialSource, CoversEachTargetOnce) {
  const Files files;
  for (const int length : {1, 7, 100, 200, 1000}) {
    const auto source = MakeSequentialSource({files.a, files.b}, length);
    ASSERT_TRUE(source.ok());
    const int64_t samples = (*source)->num_samples_per_epoch();
    EXPECT_EQ(samples, (200 + length - 1) / length);
    std::vector<int32_t> stream(201), targets;
    ASSERT_TRUE((*TokenStream::Open({files.a, files.b}, ""))->Read(0, stream).ok());
    for (int64_t s = 0; s < samples; ++s) {
      const auto tokens = ReadSamples(**source, s, 1);
      const int64_t count = (*source)->NumTargets(s);
      EXPECT_EQ(tokens[0], stream[s * length]);
      targets.insert(targets.end(), tokens.begin() + 1, tokens.begin() + 1 + count);
      for (int64_t i = count + 1; i <= length; ++i) EXPECT_EQ(tokens[i], 0);
    }
    EXPECT_TRUE(std::equal(targets.begin(), targets.end(), stream.begin() + 1, stream.end()));
    // Behind the end there is padding only.
    EXPECT_EQ((*source)->NumTargets(samples + 3), 0);
    EXPECT_EQ(ReadSamples(**source, samples + 3, 1), std::vector<int32_t>(length + 1));
  }
}

TEST(BatchSource, InfoSumsTheFilesAndIdentityIsTheirContent) {
  const Files files;
  const auto both = MakeSequentialSource({files.a, files.b}, 4);
  EXPECT_EQ((*both)->info().num_tokens, 201);
  EXPECT_EQ((*both)->info().num_documents, 4);
  EXPECT_EQ((*both)->info().text_bytes, 603);
  EXPECT_EQ((*both)->info().vocab_size, 1000);
  const std::string copy = files.dir.File("copy");
  std::filesystem::copy(files.a, copy);
  const auto identity = [](const std::vector<std::string>& paths) {
    return (*MakeSequentialSource(paths, 4))->info().identity;
  };
  EXPECT_EQ(identity({files.a, files.b}), identity({copy, files.b}));
  EXPECT_NE(identity({files.a, files.b}), identity({files.b, files.a}));
  EXPECT_NE(identity({files.a}), identity({files.b}));
}

TEST(BatchSource, BadInputIsOneClearSentence) {
  const Files files;
  const auto make = [&](BatchSourceOptions options) { return MakeBatchSource(options).status(); };
  const std::vector<BatchSourceOptions::Source> a = {{.paths = {files.a}}};
  ExpectStatus(make({.sources = a}), Code::kInvalidArgument, {"sequence length 0"});
  ExpectStatus(make({.sequence_length = 4}), Code::kInvalidArgument, {"no data source"});
  ExpectStatus(make({.sources = {{}}, .sequence_length = 4}), Code::kInvalidArgument,
               {"without a token file"});
  ExpectStatus(make({.sources = a, .sequence_length = 101}), Code::kInvalidArgument,
               {files.a, "101 tokens", "102"});
  ExpectStatus(make({.sources = {{.paths = {files.a}, .weight = 1}, {.paths = {files.b}}},
                     .sequence_length = 4}),
               Code::kInvalidArgument, {"1 of 2", "weight"});
  ExpectStatus(make({.sources = {{.paths = {files.a}, .weight = -1}}, .sequence_length = 4}),
               Code::kInvalidArgument, {"-1"});
  ExpectStatus(make({.sources = a, .sequence_length = 4, .fim_rate = 1.5}), Code::kInvalidArgument,
               {"fim_rate 1.5"});
  ExpectStatus(make({.sources = a, .sequence_length = 4, .fim_rate = 0.5}), Code::kInvalidArgument,
               {"fill-in-the-middle"});
  ExpectStatus(make({.sources = {{.paths = {files.dir.File("none")}}}, .sequence_length = 4}),
               Code::kNotFound, {files.dir.File("none")});

  const std::string other =
      WriteTokens(files.dir.File("other"), {50},
                  {.vocab_size = 1000, .eos_id = 0, .tokenizer_hash = std::string(64, 'b')});
  ExpectStatus(make({.sources = {{.paths = {files.a, other}}}, .sequence_length = 4}),
               Code::kInvalidArgument, {files.a, other, "different tokenizers"});
  ExpectStatus(make({.sources = {{.paths = {other}}},
                     .sequence_length = 4,
                     .tokenizer_hash = std::string(64, 'c')}),
               Code::kInvalidArgument, {other, "bbbbbbbbbbbb", "cccccccccccc"});
}

TEST(BatchSource, ADamagedChunkIsNamed) {
  const TempDir dir;
  const std::string path = WriteTokens(dir.File("t"), {400000});
  FlipByte(path, 256 + (256 << 10) + 9);
  const auto source =
      MakeBatchSource({.sources = {{.paths = {path}}}, .sequence_length = 99, .shuffle = false});
  ASSERT_TRUE(source.ok());
  std::vector<int32_t> tokens(100);
  EXPECT_TRUE((*source)->Read(0, 1, tokens).ok());
  ExpectStatus((*source)->Read(1330, 1, tokens), Code::kDataLoss, {path, "chunk 1"});
}

// Undoes the rearrangement of one document; the document as it is if there is none.
std::vector<int32_t> UndoFim(const std::vector<int32_t>& d, const FimTokens& fim) {
  if (d.empty() || d[0] != fim.prefix) return d;
  const auto suffix = std::find(d.begin(), d.end(), fim.suffix);
  const auto middle = std::find(d.begin(), d.end(), fim.middle);
  std::vector<int32_t> out(d.begin() + 1, suffix);
  out.insert(out.end(), middle + 1, d.end());
  out.insert(out.end(), suffix + 1, middle);
  return out;
}

TEST(Fim, RearrangesWholeDocumentsAndKeepsEos) {
  const FimTokens fim{101, 102, 103};
  constexpr int32_t kEos = 100;
  int rearranged = 0, documents = 0;
  for (int64_t sample = 0; sample < 200; ++sample) {
    // Documents 0..9 EOS, EOS alone, 20..29 EOS, then a long one without end.
    std::vector<int32_t> tokens(64);
    std::iota(tokens.begin(), tokens.end(), 0);
    tokens[10] = tokens[11] = tokens[22] = kEos;
    const std::vector<std::vector<int32_t>> originals = {
        {tokens.begin(), tokens.begin() + 10}, {}, {tokens.begin() + 12, tokens.begin() + 22}};
    std::vector<int32_t> starts = {0, 11, 12, 23};
    ApplyFim({.rate = 0.3, .tokens = fim, .eos_id = kEos, .key = 5}, sample, tokens, &starts);
    ASSERT_EQ(starts.size(), 4u);
    for (int d = 0; d < 3; ++d) {
      const std::vector<int32_t> document(tokens.begin() + starts[d],
                                          tokens.begin() + starts[d + 1]);
      ASSERT_EQ(document.back(), kEos);
      const std::vector<int32_t> body(document.begin(), document.end() - 1);
      EXPECT_EQ(UndoFim(body, fim), originals[d]);
      if (d == 1) continue;
      ++documents;
      rearranged += body != originals[d];
    }
  }
  // Binomial(400, 0.3): mean 120, standard deviation 9.2; six of them.
  EXPECT_EQ(documents, 400);
  EXPECT_NEAR(rearranged, 120, 55);
}

TEST(Fim, RateZeroChangesNothingAndRateOneAll) {
  const FimTokens fim{101, 102, 103};
  std::vector<int32_t> tokens(16), before(16);
  std::iota(tokens.begin(), tokens.end(), 0);
  before = tokens;
  std::vector<int32_t> starts = {0, 8};
  ApplyFim({.rate = 0, .tokens = fim}, 1, tokens, &starts);
  EXPECT_EQ(tokens, before);
  ApplyFim({.rate = 1, .tokens = fim}, 1, tokens, &starts);
  EXPECT_THAT(starts, ElementsAre(0, 11));
  EXPECT_EQ(tokens[0], fim.prefix);
  EXPECT_EQ(tokens[11], fim.prefix);
}

TEST(Fim, DocumentsPushedOffTheEndHaveNoStart) {
  const FimTokens fim{101, 102, 103};
  std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<int32_t> starts = {0, 3, 7};
  ApplyFim({.rate = 1, .tokens = fim}, 1, tokens, &starts);
  EXPECT_THAT(starts, ElementsAre(0, 6));
}

}  // namespace
}  // namespace sluice::data
