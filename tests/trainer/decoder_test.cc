// The cached decoder against the forward pass that training uses, and the two ways to continue a
// text against each other.
#include "trainer/loop/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>

#include "kernels/core/philox.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/generate.h"

namespace sluice::trainer {
namespace {

struct Case {
  const char* name;
  std::function<void(RunConfig&)> change;
};

void UseGqa(RunConfig& config, const char* qk_norm, int key_heads) {
  ModelConfig& m = *config.mutable_model();
  m.set_kv_lora_rank(0);
  m.set_num_attention_heads(4);
  m.set_num_key_value_heads(key_heads);
  m.set_head_dim(6);
  m.set_qk_norm(qk_norm);
}

const Case kCases[] = {
    {"mla_q_lora", [](RunConfig& /*c*/) {}},
    {"mla_q_direct", [](RunConfig& c) { c.mutable_model()->set_q_lora_rank(0); }},
    {"mla_yarn",
     [](RunConfig& c) {
       RopeScaling& scaling = *c.mutable_model()->mutable_rope_scaling();
       scaling.set_type("yarn");
       scaling.set_factor(4);
       scaling.set_beta_fast(32);
       scaling.set_beta_slow(1);
       scaling.set_mscale(0.7);
       scaling.set_mscale_all_dim(1);
       scaling.set_original_max_position_embeddings(16);
     }},
    {"gqa_head_norm", [](RunConfig& c) { UseGqa(c, "head", 2); }},
    {"gqa_full_norm", [](RunConfig& c) { UseGqa(c, "full", 4); }},
    {"gqa_one_key_head", [](RunConfig& c) { UseGqa(c, "none", 1); }},
    {"softmax_groups_no_shared_no_dense_tied",
     [](RunConfig& c) {
       ModelConfig& m = *c.mutable_model();
       m.set_first_k_dense_replace(0);
       m.set_n_shared_experts(0);
       m.set_tie_word_embeddings(true);
       m.set_topk_method("group_limited_greedy");
       m.set_scoring_func("softmax");
       m.set_norm_topk_prob(false);
       m.set_n_routed_experts(6);
       m.set_n_group(3);
       m.set_topk_group(2);
     }},
    {"no_experts", [](RunConfig& c) { c.mutable_model()->set_n_routed_experts(0); }},
    {"mtp_is_not_read", [](RunConfig& c) { c.mutable_model()->set_num_nextn_predict_layers(1); }},
};

RunConfig LongerConfig(const Case& test) {
  RunConfig config = TinyConfig();
  config.mutable_train()->set_sequence_length(19);
  test.change(config);
  return config;
}

// Weights away from their initial values, and a selection bias that decides.
void Stir(OneRank& rank) {
  for (const auto& stage : rank.model->stages()) {
    for (const auto& gate : stage->gates()) {
      if (gate.layer->has_bias()) gate.layer->bias().mutable_data<float>()[2] = 0.15f;
    }
  }
  rank.ForEachPiece([](const NamedPiece& piece, float* master, const float*) {
    if (piece.name.find("norm.weight") == std::string::npos) return;
    for (int64_t i = 0; i < piece.count; ++i) master[i] = 0.8f + 0.05f * static_cast<float>(i % 9);
  });
  rank.Publish();
}

class DecoderParity : public ::testing::TestWithParam<Case> {};

// FP32 twice, in another order: each logit is a sum whose terms went through about 12 matrix
// products, norms and softmaxes a layer, each wrong by a few 2^-24 of its size: 2 layers * 12 * 4 *
// 2^-24 = 6e-6 of the largest logit, if all erred alike. (Found: 7e-7.) A wrong place, scale or
// expert moves logits by a tenth and more.
TEST_P(DecoderParity, LogitsOfEveryPositionEqualTheForwardPass) {
  OneRank rank(LongerConfig(GetParam()));
  Stir(rank);
  rank.LoadRandomBatch(11);
  const int64_t length = rank.config.train().sequence_length(),
                vocabulary = rank.config.model().vocab_size();
  std::vector<float> expected(length * vocabulary);
  TransformerStage& stage = *rank.model->stages().back();
  stage.set_head_visitor([&](const Context& context, const HeadOutput& out) {
    if (context.batch.first_sequence != 0) return;
    out.head->Logits(context, out.hidden.Rows(0, length),
                     TensorView(expected.data(), DType::kF32, {length, vocabulary}));
  });
  rank.Evaluate();
  stage.set_head_visitor(nullptr);
  float largest = 0;
  for (float logit : expected) largest = std::max(largest, std::abs(logit));
  auto decoder = Decoder::Create(*rank.model, length);
  ASSERT_TRUE(decoder.ok()) << decoder.status();
  const int32_t* tokens = rank.batch->inputs()[0].tokens.data<int32_t>();
  double worst = 0;
  for (int64_t i = 0; i < length; ++i) {
    EXPECT_EQ((*decoder)->position(), i);
    const auto logits = (*decoder)->Step(tokens[i]);
    ASSERT_TRUE(logits.ok()) << logits.status();
    ASSERT_EQ(static_cast<int64_t>(logits->size()), vocabulary);
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double off = std::abs((*logits)[v] - expected[i * vocabulary + v]) / largest;
      worst = std::max(worst, off);
      ASSERT_LE(off, 6e-6) << "position " << i << ", token " << v;
    }
  }
  std::printf("worst difference %.1e of the largest logit %.2f\n", worst, largest);
}

// Ids are their own text, one character each.
class LetterTokenizer : public data::Tokenizer {
 public:
  explicit LetterTokenizer(int eos) : eos_(eos) {}
  using Tokenizer::Encode;
  std::vector<int32_t> Encode(absl::string_view text,
                              const data::EncodeOptions& /*options*/) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(c - '@');
    return ids;
  }
  std::vector<int32_t> EncodeWithSpecialTokens(absl::string_view text) const override {
    return Encode(text);
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool /*skip*/) const override {
    std::string text;
    for (int32_t id : ids) text += static_cast<char>('@' + id);
    return text;
  }
  int vocab_size() const override { return 31; }
  int eos_id() const override { return eos_; }
  int bos_id() const override { return -1; }
  int IdOf(absl::string_view /*token*/) const override { return -1; }
  std::string hash() const override { return ""; }

 private:
  const int eos_;
};

// What Decoder says, token by token.
std::string Continue(OneRank& rank, const LetterTokenizer& tokenizer, const std::string& prompt,
                     int64_t max_tokens, const SamplingOptions& sampling) {
  auto decoder = Decoder::Create(*rank.model, 64);
  EXPECT_TRUE(decoder.ok());
  std::vector<int32_t> ids = tokenizer.Encode(prompt);
  std::vector<float> logits;
  const auto step = [&](int32_t id) {
    const auto row = (*decoder)->Step(id);
    EXPECT_TRUE(row.ok());
    logits.assign(row->begin(), row->end());
  };
  for (int32_t id : ids) step(id);
  for (int64_t i = 0; i < max_tokens; ++i) {
    const int32_t next = SampleToken(logits, sampling, (*decoder)->position());
    if (next == tokenizer.eos_id()) break;
    ids.push_back(next);
    step(next);
  }
  return *tokenizer.Decode(ids, false);
}

TEST_P(DecoderParity, TextEqualsTextWithoutACache) {
  OneRank rank(LongerConfig(GetParam()));
  Stir(rank);
  const LetterTokenizer tokenizer(-1);
  for (const double temperature : {0.0, 1.0}) {
    SamplingOptions sampling;
    sampling.temperature = temperature;
    sampling.seed = 4;
    for (const char* prompt : {"C", "HELLO"}) {
      const auto sampled = SampleText(*rank.model, tokenizer, prompt, 12, sampling);
      ASSERT_TRUE(sampled.ok()) << sampled.status();
      EXPECT_EQ(*sampled, Continue(rank, tokenizer, prompt, 12, sampling));
      EXPECT_EQ(sampled->size(), std::string(prompt).size() + 12);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, DecoderParity, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Decoder, RefusesTokensOutsideTheVocabularyAndMoreThanItsPositions) {
  OneRank rank(TinyConfig());
  auto decoder = Decoder::Create(*rank.model, 2);
  ASSERT_TRUE(decoder.ok());
  EXPECT_EQ((*decoder)->Step(31).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*decoder)->Step(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*decoder)->position(), 0);  // a refused token leaves nothing behind
  EXPECT_TRUE((*decoder)->Step(30).ok());
  EXPECT_TRUE((*decoder)->Step(0).ok());
  EXPECT_EQ((*decoder)->Step(0).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(SampleText, EndsBeforeTheEndOfTheDocumentAndAtTheSequenceLength) {
  OneRank rank(TinyConfig());  // sequences of 7
  SamplingOptions greedy;
  greedy.temperature = 0;
  const auto free = SampleText(*rank.model, LetterTokenizer(-1), "AB", 100, greedy);
  ASSERT_TRUE(free.ok());
  EXPECT_EQ(free->size(), 7u);
  // Let the third new token be the end.
  const int eos = (*free)[4] - '@';
  const size_t first = free->find((*free)[4], 2);
  const auto ended = SampleText(*rank.model, LetterTokenizer(eos), "AB", 100, greedy);
  ASSERT_TRUE(ended.ok());
  EXPECT_EQ(*ended, free->substr(0, first));
  const auto none = SampleText(*rank.model, LetterTokenizer(-1), "AB", 0, greedy);
  EXPECT_EQ(*none, "AB");
  const auto full = SampleText(*rank.model, LetterTokenizer(-1), "ABCDEFGHIJ", 3, greedy);
  EXPECT_EQ(*full, "ABCDEFG");  // cut, and nothing can follow
}

TEST(SampleText, IsTheSameOnEveryRankOfAPipeline) {
  RunConfig config = TinyConfig();
  SamplingOptions sampling;
  OneRank one(config);
  const auto expected = SampleText(*one.model, LetterTokenizer(-1), "HI", 4, sampling);
  ASSERT_TRUE(expected.ok());
  config.mutable_mesh()->set_pipe(2);
  const auto resolved = Resolve(config, 2);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  auto worlds = parallel::CreateThreadCommunicators(2);
  std::string texts[2];
  std::vector<std::thread> ranks;
  for (int r = 0; r < 2; ++r) {
    ranks.emplace_back([&, r] {
      auto device = kernels::DeviceContext::Create({});
      RankContext rank;
      rank.world = worlds[r].get();
      rank.device = device->get();
      auto model = RankModel::Create(*resolved, rank);
      CHECK(model.ok() && (*model)->InitializeWeights().ok());
      texts[r] = *SampleText(**model, LetterTokenizer(-1), "HI", 4, sampling);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(texts[0], *expected);
  EXPECT_EQ(texts[1], *expected);
}

}  // namespace
}  // namespace sluice::trainer
