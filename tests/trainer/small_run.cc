#include "tests/trainer/small_run.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/rehearsal.h"

namespace sluice::trainer {
namespace {

// Text with something to learn: a token is mostly the previous one times 5, plus 1; one in four is
// random. New in every step.
HostBatch RandomBatch(const RunConfig& config, int64_t first, int64_t count, int step) {
  const int64_t row = config.train().sequence_length() + 1;
  HostBatch batch;
  for (int64_t s = first; s < first + count; ++s) {
    int64_t token = 0;
    for (int64_t i = 0; i < row; ++i) {
      const auto words =
          Philox(PhiloxKey(step, RandomPurpose::kTest), static_cast<uint64_t>(s * row + i));
      const int64_t next = words[0] % 4 == 0 || i == 0 ? words[1] : token * 5 + 1;
      token = next % config.model().vocab_size();
      batch.tokens.push_back(static_cast<int32_t>(token));
    }
    batch.document_starts.push_back({0, static_cast<int32_t>(3 + s % 5)});
    // Not the same number everywhere: a mean of means is another loss.
    batch.num_targets.push_back(row - 1 - s % 3);
  }
  return batch;
}

// Records rows while a step runs. Ranks share the record.
class Recorder {
 public:
  explicit Recorder(std::mutex& mutex) : mutex_(mutex) {}

  // Everything, or only one kind of row.
  void Attach(RankModel& model, Rows& into, const std::string& only = "") {
    for (const auto& stage : model.stages()) {
      stage->set_row_visitor([this, &into, only](const char* what, int layer,
                                                 const MicrobatchInput& input,
                                                 ConstTensorView rows) {
        if (only.empty() || only == what) Add(what, layer, input, rows, into);
      });
    }
  }
  static void Detach(RankModel& model) {
    for (const auto& stage : model.stages()) stage->set_row_visitor(nullptr);
  }

 private:
  void Add(const char* what, int layer, const MicrobatchInput& input, ConstTensorView rows,
           Rows& into) {
    const int64_t width = rows.num_elements() / input.num_tokens();
    const size_t bytes = static_cast<size_t>(width) * kernels::SizeOf(rows.dtype());
    std::lock_guard<std::mutex> lock(mutex_);
    for (int64_t t = 0; t < input.num_tokens(); ++t) {
      const char* data = static_cast<const char*>(rows.raw_data()) + t * bytes;
      into[absl::StrCat(what, ".", layer, ".", input.first_sequence + t / input.sequence_length,
                        ".", t % input.sequence_length)] = std::string(data, bytes);
    }
  }
  std::mutex& mutex_;
};

// This rank's shards of an optimizer array, into whole named tensors.
void Collect(RankModel& model, bool gradients, std::map<std::string, std::vector<float>>& tensors,
             std::mutex& mutex) {
  std::lock_guard<std::mutex> lock(mutex);
  for (int g = 0; g < kNumParameterGroups; ++g) {
    const auto group = static_cast<ParameterGroup>(g);
    parallel::ShardedAdamW* optimizer = model.optimizer(group);
    if (optimizer == nullptr) continue;
    const ConstTensorView shard =
        gradients ? optimizer->gradient() : ConstTensorView(optimizer->master());
    const int64_t begin = optimizer->shard_begin();
    model.store().ForEachRun(group, begin, optimizer->shard_end(),
                             [&](const Parameter& parameter, const NamedPiece& piece,
                                 int64_t named_begin, int64_t flat_begin, int64_t count) {
                               if (parameter.tied_copy) return;
                               int64_t elements = 1;
                               for (int64_t extent : piece.shape) elements *= extent;
                               std::vector<float>& whole = tensors[piece.name];
                               whole.resize(elements);
                               const float* from = shard.data<float>() + (flat_begin - begin);
                               std::copy(from, from + count, whole.begin() + named_begin);
                             });
  }
}

void RunRank(const RunConfig& config, const Layout& layout, parallel::Communicator& world,
             int steps, RunRecord& record, std::mutex& mutex) {
  auto device = kernels::DeviceContext::Create(
      {.num_threads = layout.threads,
       .stream_mode = layout.threaded_streams ? kernels::CpuStreamMode::kThreaded
                                              : kernels::CpuStreamMode::kInline});
  CHECK(device.ok());
  RankContext rank;
  rank.world = &world;
  rank.device = device->get();
  auto model = RankModel::Create(config, rank);
  CHECK(model.ok()) << model.status().ToString();
  // Adapters that begin at zero would hide what stands behind them.
  for (const auto& parameter : (*model)->store().parameters()) {
    if (parameter->initial_deviation == 0) parameter->initial_deviation = 0.05;
  }
  CHECK((*model)->InitializeWeights().ok());
  DeviceBatch batch(**device, {.sequence_length = config.train().sequence_length(),
                               .microbatch = config.train().microbatch(),
                               .mtp_depth = config.model().num_nextn_predict_layers(),
                               .document_mask = config.data().document_mask()});
  Recorder recorder(mutex);
  for (int step = 1; step <= steps; ++step) {
    const int64_t per_rank = config.train().global_batch() / layout.data,
                  mine = per_rank * (*model)->data_rank();
    CHECK(batch.Load(RandomBatch(config, mine, per_rank, step), mine).ok());
    if (step == 1) {
      recorder.Attach(**model, record.rows);
    } else if (step == steps) {
      recorder.Attach(**model, record.last_routes, "routes");
    }
    StepOptions options;
    options.global_sequences = config.train().global_batch();
    options.learning_rate = 5e-4 * std::min(1.0, step / 20.0);  // warm-up, as in every recipe
    options.update = step;
    const auto result = TrainStep(**model, batch, options);
    CHECK(result.ok()) << result.status().ToString();
    if (step == 1) {
      Recorder::Detach(**model);
      Collect(**model, true, record.gradients, mutex);
    }
    if (world.rank() == 0) record.steps.push_back(*result);
  }
  Collect(**model, false, record.masters, mutex);
  record.memory[world.rank()] = HeldBy((*device)->memory());
}

double Norm(const std::vector<float>& x) {
  double squares = 0;
  for (float value : x) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

// The first expert whose load differs, by its layer: MTP's gates follow those of the layers.
void NameFirstLoad(const RunRecord& one, const RunRecord& other, std::vector<std::string>& found) {
  const std::vector<int64_t>&a = one.steps[0].load, &b = other.steps[0].load;
  if (a.size() != b.size()) found.push_back("another number of expert loads");
  const auto experts = static_cast<size_t>(one.model.n_routed_experts());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i] == b[i]) continue;
    found.push_back(absl::StrCat("load of layer ", one.model.first_k_dense_replace() + i / experts,
                                 ", expert ", i % experts, ": 1 rank ", a[i], ", here ", b[i]));
    break;
  }
}

}  // namespace

std::string Layout::Name() const {
  return absl::StrCat("pipe", pipe, "_data", data, "_expert", expert, "_", schedule,
                      chunks > 1 ? absl::StrCat("_v", chunks) : "",
                      threads > 1 ? absl::StrCat("_threads", threads) : "",
                      stage_layers.empty() ? "" : "_uneven", threaded_streams ? "_streams" : "");
}

RunConfig SmallConfig(const std::string& precision) {
  RunConfig config;
  ModelConfig& m = *config.mutable_model();
  m.set_vocab_size(96);
  m.set_hidden_size(48);
  m.set_intermediate_size(80);
  m.set_moe_intermediate_size(32);
  m.set_num_hidden_layers(4);
  m.set_first_k_dense_replace(1);
  m.set_num_attention_heads(4);
  m.set_n_routed_experts(8);
  m.set_n_shared_experts(1);
  m.set_num_experts_per_tok(3);
  m.set_n_group(4);
  m.set_topk_group(2);
  m.set_topk_method("noaux_tc");
  m.set_scoring_func("sigmoid");
  m.set_norm_topk_prob(true);
  m.set_routed_scaling_factor(2.5);
  m.set_q_lora_rank(24);
  m.set_kv_lora_rank(16);
  m.set_qk_nope_head_dim(16);
  m.set_qk_rope_head_dim(8);
  m.set_v_head_dim(16);
  m.set_max_position_embeddings(64);
  m.set_num_nextn_predict_layers(1);
  m.set_initializer_range(0.05);  // routes far from ties
  m.set_aux_loss_alpha(0.01);
  m.set_router_z_loss_coef(0.001);
  config.mutable_data()->set_document_mask(true);
  config.mutable_train()->set_global_batch(32);
  config.mutable_train()->set_sequence_length(17);
  config.mutable_compute()->set_precision(precision);
  return config;
}

RunConfig ConfigOn(RunConfig config, const Layout& layout) {
  config.mutable_mesh()->set_pipe(layout.pipe);
  config.mutable_mesh()->set_data(layout.data);
  config.mutable_mesh()->set_expert(layout.expert);
  config.set_schedule(layout.schedule);
  config.set_schedule_chunks(layout.chunks);
  if (!layout.stage_layers.empty()) config.set_stage_layers(layout.stage_layers);
  const auto resolved = Resolve(config, layout.world());
  CHECK(resolved.ok()) << resolved.status().ToString();
  return *resolved;
}

RunRecord RunLayout(const RunConfig& config, const Layout& layout, int steps,
                    const WrapWorld& wrap) {
  const RunConfig resolved = ConfigOn(config, layout);
  std::vector<std::unique_ptr<parallel::Communicator>> worlds;
  if (layout.world() == 1) {
    worlds.push_back(parallel::CreateSelfCommunicator());
  } else {
    worlds = parallel::CreateThreadCommunicators(layout.world());
  }
  RunRecord record;
  record.model = resolved.model();
  record.memory.resize(layout.world());
  std::mutex mutex;
  std::vector<std::thread> ranks;
  for (auto& world : worlds) {
    if (wrap) world = wrap(std::move(world));
    ranks.emplace_back([&, ranks_world = world.get()] {
      RunRank(resolved, layout, *ranks_world, steps, record, mutex);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return record;
}

std::vector<std::string> CompareFirstStep(const RunRecord& one, const RunRecord& other,
                                          double relative) {
  std::vector<std::string> found;
  const auto exact = [&](const char* what, double a, double b) {
    if (a != b) found.push_back(absl::StrCat(what, ": 1 rank ", a, ", here ", b));
  };
  const StepResult &a = one.steps[0], &b = other.steps[0];
  exact("target count", static_cast<double>(a.num_targets), static_cast<double>(b.num_targets));
  exact("loss", a.loss, b.loss);
  exact("mtp_loss", a.mtp_loss, b.mtp_loss);
  exact("balance_loss", a.balance_loss, b.balance_loss);
  exact("z_loss", a.z_loss, b.z_loss);
  exact("aux_loss", a.aux_loss, b.aux_loss);
  NameFirstLoad(one, other, found);
  if (one.rows.size() != other.rows.size()) found.push_back("another number of rows");
  for (const auto& [key, bytes] : one.rows) {
    const auto row = other.rows.find(key);
    if (row == other.rows.end() || row->second != bytes) {
      found.push_back(absl::StrCat("row ", key, " differs"));
      break;  // the first says enough
    }
  }
  double squares = 0;
  for (const auto& [name, gradient] : one.gradients) squares += std::pow(Norm(gradient), 2);
  for (const auto& [name, gradient] : one.gradients) {
    const auto there = other.gradients.find(name);
    if (there == other.gradients.end() || there->second.size() != gradient.size()) {
      found.push_back(absl::StrCat("gradient ", name, " is missing"));
      continue;
    }
    std::vector<float> difference(gradient.size());
    for (size_t i = 0; i < gradient.size(); ++i) difference[i] = there->second[i] - gradient[i];
    const double error = Norm(difference),
                 bound = relative * Norm(gradient) + 1e-8 * std::sqrt(squares);
    if (!(error <= bound))
      found.push_back(absl::StrCat("gradient ", name, ": off by ", error, ", bound ", bound));
  }
  if (!(std::abs(a.grad_norm - b.grad_norm) <= relative * a.grad_norm)) {
    found.push_back(absl::StrCat("grad_norm: 1 rank ", a.grad_norm, ", here ", b.grad_norm));
  }
  return found;
}

}  // namespace sluice::trainer
