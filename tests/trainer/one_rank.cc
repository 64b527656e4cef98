#include "tests/trainer/one_rank.h"

#include "kernels/core/check.h"
#include "kernels/core/philox.h"

namespace sluice::trainer {

OneRank::OneRank(const RunConfig& unresolved, int threads) {
  const auto resolved = Resolve(unresolved, 1);
  CHECK(resolved.ok()) << resolved.status().ToString();
  config = *resolved;
  world = parallel::CreateSelfCommunicator();
  auto made_device = kernels::DeviceContext::Create({.num_threads = threads});
  CHECK(made_device.ok());
  device = *std::move(made_device);
  RankContext rank;
  rank.world = world.get();
  rank.device = device.get();
  auto made_model = RankModel::Create(config, rank);
  CHECK(made_model.ok()) << made_model.status().ToString();
  model = *std::move(made_model);
  CHECK(model->InitializeWeights().ok());
  batch = std::make_unique<DeviceBatch>(
      *device, BatchOptions{.sequence_length = config.train().sequence_length(),
                            .microbatch = config.train().microbatch(),
                            .mtp_depth = config.model().num_nextn_predict_layers(),
                            .document_mask = config.data().document_mask()});
}

void OneRank::LoadRandomBatch(int step) {
  const int64_t sequences = config.train().global_batch(),
                row = config.train().sequence_length() + 1;
  HostBatch host;
  for (int64_t i = 0; i < sequences * row; ++i) {
    const auto words = Philox(PhiloxKey(step, RandomPurpose::kTest), static_cast<uint64_t>(i));
    host.tokens.push_back(static_cast<int32_t>(words[0] % config.model().vocab_size()));
  }
  for (int64_t s = 0; s < sequences; ++s) {
    host.document_starts.push_back({0, static_cast<int32_t>(2 + s % 3)});
    host.num_targets.push_back(s == 1 ? row - 3 : row - 1);  // one sequence ends in padding
  }
  CHECK(batch->Load(host, 0).ok());
}

StepResult OneRank::Train(double learning_rate, int64_t update) {
  StepOptions options;
  options.global_sequences = config.train().global_batch();
  options.learning_rate = learning_rate;
  options.update = update;
  const auto result = TrainStep(*model, *batch, options);
  CHECK(result.ok()) << result.status().ToString();
  return *result;
}

StepResult OneRank::Evaluate() {
  const auto result = EvaluateStep(*model, *batch, config.train().global_batch());
  CHECK(result.ok()) << result.status().ToString();
  return *result;
}

void OneRank::ForEachPiece(const PieceVisitor& visit) {
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    parallel::ShardedAdamW* optimizer = model->optimizer(group);
    if (optimizer == nullptr) continue;
    CHECK_EQ(optimizer->shard_begin(), 0);
    float* master = optimizer->master().mutable_data<float>();
    const float* gradient = optimizer->gradient().data<float>();
    model->store().ForEachRun(group, 0, optimizer->shard_end(),
                              [&](const Parameter& /*parameter*/, const NamedPiece& piece,
                                  int64_t /*named_begin*/, int64_t flat_begin, int64_t /*count*/) {
                                visit(piece, master + flat_begin, gradient + flat_begin);
                              });
  }
}

void OneRank::Publish() { CHECK(model->PublishWeights().ok()); }

RunConfig TinyConfig() {
  RunConfig config;
  ModelConfig& m = *config.mutable_model();
  m.set_vocab_size(31);
  m.set_hidden_size(24);
  m.set_intermediate_size(20);
  m.set_moe_intermediate_size(12);
  m.set_num_hidden_layers(2);
  m.set_first_k_dense_replace(1);
  m.set_num_attention_heads(2);
  m.set_n_routed_experts(4);
  m.set_n_shared_experts(1);
  m.set_num_experts_per_tok(2);
  m.set_topk_method("noaux_tc");
  m.set_scoring_func("sigmoid");
  m.set_norm_topk_prob(true);
  m.set_routed_scaling_factor(1.5);
  m.set_q_lora_rank(10);
  m.set_kv_lora_rank(12);
  m.set_qk_nope_head_dim(6);
  m.set_qk_rope_head_dim(4);
  m.set_v_head_dim(7);
  m.set_max_position_embeddings(64);
  m.set_initializer_range(0.15);  // every path carries a part of the loss that can be measured
  m.set_aux_loss_alpha(0.05);
  m.set_router_z_loss_coef(0.02);
  config.mutable_train()->set_global_batch(4);
  config.mutable_train()->set_microbatch(2);
  config.mutable_train()->set_sequence_length(7);
  config.mutable_train()->set_bias_update_speed(0);
  config.mutable_compute()->set_precision("FP32");
  return config;
}

RunConfig TinyFp8(const std::string& precision) {
  RunConfig config = TinyConfig();
  ModelConfig& m = *config.mutable_model();
  m.set_hidden_size(48);
  m.set_intermediate_size(80);
  m.set_moe_intermediate_size(32);
  m.set_q_lora_rank(32);
  m.set_kv_lora_rank(16);
  m.set_qk_nope_head_dim(16);
  m.set_qk_rope_head_dim(16);
  m.set_v_head_dim(16);
  config.mutable_compute()->set_precision(precision);
  return config;
}

}  // namespace sluice::trainer
