// A frozen model whose matrices stay an FP8 checkpoint's codes and scales: every product is that of
// the values written out, to the bit; memory counts bytes, not values; the bytes come back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <mutex>

#include "absl/strings/match.h"
#include "checkpoints/digest.h"
#include "checkpoints/safetensors.h"
#include "kernels/ops/matmul.h"
#include "tests/data/data_test_util.h"
#include "tests/support/thread_ranks.h"
#include "tests/trainer/one_rank.h"
#include "trainer/loop/decoder.h"
#include "trainer/loop/huggingface.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/score.h"

namespace sluice::trainer {
namespace {

using ::testing::HasSubstr;

// Ragged blocks everywhere: q_a over kv_a is 144 + 64 rows, a gate or up projection 144. A block of
// kv_b_proj holds two heads, whose rows our order tears into nope and v.
RunConfig ModelToRelease() {
  RunConfig config = TinyConfig();
  ModelConfig& m = *config.mutable_model();
  m.set_hidden_size(160);
  m.set_intermediate_size(208);
  m.set_moe_intermediate_size(144);
  m.set_num_attention_heads(4);
  m.set_q_lora_rank(144);
  m.set_kv_lora_rank(48);
  m.set_qk_nope_head_dim(32);
  m.set_qk_rope_head_dim(16);
  m.set_v_head_dim(32);
  m.set_aux_loss_alpha(0);
  m.set_router_z_loss_coef(0);
  return config;
}

struct KeptFiles {
  KeptFiles() {
    OneRank rank(ModelToRelease());
    // Blocks of one tensor that differ in scale, so that a mixed-up scale shows.
    rank.ForEachPiece([](const NamedPiece& piece, float* master, const float*) {
      if (piece.shape.size() != 2) return;
      for (int64_t i = 0; i < piece.count; ++i) {
        const int64_t at = piece.begin + i, row = at / piece.shape[1], column = at % piece.shape[1];
        master[i] *= 1.0f + 0.37f * static_cast<float>(row / 128 + 2 * (column / 128));
      }
    });
    const std::string made = dir.File("made/checkpoints");
    std::filesystem::create_directories(made);
    RunState state;
    state.load.assign(rank.model->num_gates() * 4, 0);
    const auto saved = SaveState(*rank.model, state, Quiet(made), *files);
    EXPECT_TRUE(saved.ok()) << saved.status();
    ExportRequest request;
    request.from = dir.File("made");
    request.to = source;
    request.type = checkpoints::ExportType::kFp8;
    const auto exported = ExportHuggingFace(request);
    EXPECT_TRUE(exported.ok()) << exported.status();
    generation = Import(dir.File("run"), false);
  }

  static SaveOptions Quiet(const std::string& folder) {
    return {.dir = folder, .log = [](absl::string_view) {}};
  }

  std::string Import(const std::string& to, bool keep, const std::string& precision = "BF16") {
    ImportRequest request;
    request.from = source;
    request.to = to;
    request.edit = [&](RunConfig& config) {
      config.mutable_compute()->set_precision(precision);
      config.mutable_compute()->set_keep_fp8_weights(keep);
      config.mutable_train()->set_sequence_length(7);
      return absl::OkStatus();
    };
    const auto imported = ImportHuggingFace(request);
    EXPECT_TRUE(imported.ok()) << imported.status();
    return imported.ok() ? imported->generation : "";
  }

  absl::StatusOr<RunState> LoadInto(RankModel& model) const {
    for (const auto& parameter : model.store().parameters()) {
      // Adapters that begin at zero would hide what stands behind them.
      if (parameter->initial_deviation == 0) parameter->initial_deviation = 0.05;
    }
    LoadOptions options;
    options.weights_only = options.merge_adapters = true;
    return LoadState(model, generation, options, *files);
  }

  data::TempDir dir;
  std::unique_ptr<checkpoints::FileSystem> files = checkpoints::CreatePosixFileSystem();
  std::string source = dir.File("source"), generation;
};

RunConfig AdaptersOn(const KeptFiles& kept, const std::string& precision, bool keep) {
  RunConfig config = ModelToRelease();
  config.mutable_compute()->set_precision(precision);
  config.mutable_compute()->set_keep_fp8_weights(keep);
  config.mutable_run()->set_init_from(kept.dir.File("run"));
  config.mutable_finetune()->set_mode("lora");
  config.mutable_finetune()->mutable_lora()->set_rank(3);
  return config;
}

TEST(KeptFp8Weights, ForwardAndAdapterGradientsAreThoseOfTheValuesToTheBit) {
  const KeptFiles kept;
  for (const char* precision : {"FP32", "BF16"}) {
    StepResult results[2];
    std::map<std::string, std::vector<float>> gradients[2];
    for (const bool keep : {false, true}) {
      OneRank rank(AdaptersOn(kept, precision, keep));
      ASSERT_TRUE(kept.LoadInto(*rank.model).ok());
      rank.LoadRandomBatch(3);
      rank.Train(0.01);
      results[keep] = rank.Train(0.01, 2);  // adapters that have moved
      rank.ForEachPiece([&](const NamedPiece& piece, float*, const float* gradient) {
        gradients[keep][piece.name].assign(gradient, gradient + piece.count);
      });
    }
    EXPECT_EQ(results[0].loss, results[1].loss) << precision;
    EXPECT_EQ(results[0].grad_norm, results[1].grad_norm) << precision;
    EXPECT_EQ(results[0].load, results[1].load) << precision;
    EXPECT_EQ(gradients[0], gradients[1]) << precision;
    EXPECT_GT(gradients[1].size(), 30u);
    EXPECT_GT(results[1].grad_norm, 0);
  }
}

TEST(KeptFp8Weights, ScoresAndGeneratesAsWithTheValues) {
  KeptFiles kept;
  const auto world = parallel::CreateSelfCommunicator();
  const auto device = *kernels::DeviceContext::Create({});
  const RankContext rank{.world = world.get(), .device = device.get()};
  for (const char* precision : {"FP32", "BF16"}) {
    std::vector<std::vector<float>> scores[2];
    std::vector<float> logits[2];
    for (const bool keep : {false, true}) {
      const std::string run = kept.dir.File(std::string(precision) + (keep ? "kept" : "values"));
      kept.Import(run, keep, precision);
      const auto scored = Score({.checkpoint = run}, {{.ids = {3, 1, 4, 1, 5, 9, 2}}}, rank);
      ASSERT_TRUE(scored.ok()) << scored.status();
      scores[keep] = *scored;
      const auto loaded = LoadModel(run, rank);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      int kept_matrices = 0;
      for (const auto& parameter : loaded->model->store().parameters()) {
        kept_matrices += parameter->is_quantized() ? 1 : 0;
      }
      // A layer's q_a and kv_a, q_b, kv_b, o, and two of each MLP: dense; shared and routed.
      EXPECT_EQ(kept_matrices, keep ? 2 * 4 + 2 + 4 : 0);
      auto decoder = *Decoder::Create(*loaded->model, 8);
      for (const int32_t token : {3, 1, 4, 1, 5}) {
        const auto row = decoder->Step(token);
        ASSERT_TRUE(row.ok()) << row.status();
        logits[keep].insert(logits[keep].end(), row->begin(), row->end());
      }
    }
    EXPECT_EQ(scores[0], scores[1]) << precision;
    EXPECT_EQ(logits[0], logits[1]) << precision;
  }
}

// Values, packed twice; in their place a byte a code, the scales, and where the row tiles begin.
TEST(KeptFp8Weights, MemoryCountsCodesAndScalesInPlaceOfValues) {
  const KeptFiles kept;
  OneRank values(AdaptersOn(kept, "BF16", false)), codes(AdaptersOn(kept, "BF16", true));
  int64_t saved = 0, slack = 0;
  for (const auto& parameter : codes.model->store().parameters()) {
    if (!parameter->is_quantized()) continue;
    const int rank = parameter->shape.rank();
    const int64_t experts = rank == 3 ? parameter->shape[0] : 1,
                  n = parameter->shape.num_elements(), out = parameter->shape[rank - 2],
                  in = parameter->shape[rank - 1];
    saved += 2 * n - n - 4 * parameter->scales->shape.num_elements();
    saved += kernels::PackedBytes(experts, in, out, DType::kBF16);
    saved += kernels::PackedBytes(experts, out, in, DType::kBF16);
    saved -= 4 * (parameter->scales->shape[1] + 1);
    slack += 32 * 7;  // starts of 32 elements: values 64 bytes, codes 32, scales 128
  }
  const auto bytes = [](OneRank& one) {
    return one.device->memory().bytes(kernels::MemoryTag::kParameters);
  };
  EXPECT_GT(saved, bytes(codes));
  EXPECT_NEAR(bytes(values) - bytes(codes), saved, slack + 64 * 32);
  for (const kernels::MemoryTag tag :
       {kernels::MemoryTag::kGradients, kernels::MemoryTag::kOptimizer}) {
    EXPECT_EQ(values.device->memory().bytes(tag), codes.device->memory().bytes(tag));
  }
}

TEST(KeptFp8Weights, TheDryRunsTableCountsThem) {
  RunConfig config;
  ModelConfig& m = *config.mutable_model();
  for (const auto set : {&ModelConfig::set_hidden_size, &ModelConfig::set_intermediate_size}) {
    (m.*set)(1024);
  }
  m.set_vocab_size(256);
  m.set_num_hidden_layers(2);
  m.set_num_attention_heads(8);
  m.set_num_key_value_heads(8);
  m.set_head_dim(128);
  m.set_max_position_embeddings(64);
  config.mutable_train()->set_sequence_length(64);
  config.mutable_finetune()->set_freeze(".");
  // 7 Mi matrix elements a layer; an embedding of 0.25 Mi; a head as large, packed twice as well.
  for (const auto& [keep, mib] : {std::pair(false, "86.0"), std::pair(true, "16.0")}) {
    config.mutable_compute()->set_keep_fp8_weights(keep);
    const auto resolved = Resolve(config, 1);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    const auto text = DryRun(*resolved, 1);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_THAT(*text, HasSubstr(std::string(mib) + "          0.0          0.0"));
    EXPECT_THAT(*text, HasSubstr("parameters 15209"));  // scales are no parameters
  }
}

// Bytes of every tensor of a directory.
std::map<std::string, std::string> TensorsOf(const KeptFiles& kept, const std::string& folder) {
  std::map<std::string, std::string> tensors;
  auto reader = checkpoints::SafetensorsReader::Open(*kept.files, folder + "/model.safetensors");
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return tensors;
  for (const checkpoints::SafetensorsEntry& entry : (*reader)->tensors()) {
    std::string& bytes = tensors[entry.name];
    bytes.resize(entry.bytes);
    const auto piece = checkpoints::WholeTensor(entry.name, entry.dtype, entry.shape);
    EXPECT_TRUE((*reader)->Read(piece, bytes.data()).ok()) << entry.name;
  }
  return tensors;
}

TEST(KeptFp8Weights, ReleasedBytesComeBackFromARunWithAdapters) {
  const KeptFiles kept;
  RunConfig config = AdaptersOn(kept, "BF16", true);
  config.mutable_finetune()->mutable_lora()->set_targets("self_attn");
  OneRank rank(config);
  auto state = kept.LoadInto(*rank.model);
  ASSERT_TRUE(state.ok()) << state.status();
  rank.LoadRandomBatch(3);
  rank.Train(0.01);
  state->step = 1;
  const std::string folder = kept.dir.File("tuned/checkpoints");
  std::filesystem::create_directories(folder);
  const auto saved = SaveState(*rank.model, *state, KeptFiles::Quiet(folder), *kept.files);
  ASSERT_TRUE(saved.ok()) << saved.status();
  ExportRequest request;
  request.from = *saved;
  // Without the import: the bytes are those of the run's own checkpoint.
  std::filesystem::rename(kept.dir.File("run"), kept.dir.File("away"));
  request.to = kept.dir.File("out");
  request.type = checkpoints::ExportType::kFp8;
  const auto certificate = ExportHuggingFace(request);
  ASSERT_TRUE(certificate.ok()) << certificate.status();
  const auto released = TensorsOf(kept, kept.source), out = TensorsOf(kept, request.to);
  ASSERT_EQ(released.size(), out.size());
  int num_scales = 0;
  for (const auto& [name, bytes] : released) {
    const bool adapted = absl::StrContains(name, "self_attn") && absl::StrContains(name, "_proj");
    num_scales += absl::EndsWith(name, "_scale_inv") && !adapted ? 1 : 0;
    if (!adapted) {
      EXPECT_TRUE(out.at(name) == bytes) << name;
    }
  }
  EXPECT_EQ(num_scales, 3 + 3 + 4 * 3);  // dense, shared and four experts
  EXPECT_TRUE(out.at("model.layers.0.self_attn.o_proj.weight") !=
              released.at("model.layers.0.self_attn.o_proj.weight"));
  // Merged adapters are no codes: whoever evaluates the run gets values.
  const auto merged = LoadModel(*saved, {.world = rank.world.get(), .device = rank.device.get()});
  ASSERT_TRUE(merged.ok()) << merged.status();
  for (const auto& parameter : merged->model->store().parameters()) {
    EXPECT_FALSE(parameter->is_quantized()) << parameter->pieces[0].name;
  }
}

// The whole of a frozen array, padding aside.
std::string BytesOf(RankModel& model, ParameterGroup group, FrozenAs as) {
  std::string bytes;
  for (const auto& parameter : model.store().parameters()) {
    if (parameter->group != group || parameter->trained || parameter->frozen_as != as) continue;
    bytes.append(static_cast<const char*>(parameter->value.raw_data()), parameter->value.bytes());
  }
  return bytes;
}

// Every rank loads and stores its part of the codes and of the scales, and holds all.
TEST(KeptFp8Weights, EveryLayoutStoresTheSame) {
  const KeptFiles kept;
  std::string digests[4], arrays[4];
  const parallel::MeshShape shapes[] = {{1, 1, 1}, {1, 3, 1}, {2, 1, 1}, {1, 2, 2}};
  for (int i = 0; i < 4; ++i) {
    RunConfig config = AdaptersOn(kept, "BF16", true);
    config.mutable_mesh()->set_pipe(shapes[i].pipe);
    config.mutable_mesh()->set_data(shapes[i].data);
    config.mutable_mesh()->set_expert(shapes[i].expert);
    config.mutable_train()->set_microbatch(1);
    config.mutable_train()->set_global_batch(12);
    const int world = shapes[i].pipe * shapes[i].data;
    const auto resolved = Resolve(config, world);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    const std::string folder = kept.dir.File("mesh" + std::to_string(i));
    std::filesystem::create_directories(folder);
    std::mutex mutex;
    testing::RunThreadRanks(
        world, kernels::CpuStreamMode::kInline,
        [&](parallel::Communicator& group, kernels::DeviceContext& device) {
          auto model = RankModel::Create(*resolved, {.world = &group, .device = &device});
          ASSERT_TRUE(model.ok()) << model.status();
          const auto state = kept.LoadInto(**model);
          ASSERT_TRUE(state.ok()) << state.status();
          const auto saved = SaveState(**model, *state, KeptFiles::Quiet(folder), *kept.files);
          ASSERT_TRUE(saved.ok()) << saved.status();
          // The last rank's: its own part is at the end.
          if (group.rank() == world - 1) {
            for (const FrozenAs as : {FrozenAs::kCodes, FrozenAs::kScales}) {
              arrays[i] += BytesOf(**model, ParameterGroup::kDense, as);
              arrays[i] += BytesOf(**model, ParameterGroup::kExpert, as);
            }
          }
          if (group.rank() != 0) return;
          const auto reader = checkpoints::CheckpointReader::Open(*kept.files, *saved);
          ASSERT_TRUE(reader.ok()) << reader.status();
          const auto digest = checkpoints::DigestOfCheckpoint(**reader);
          ASSERT_TRUE(digest.ok()) << digest.status();
          const std::lock_guard<std::mutex> lock(mutex);
          digests[i] = digest->total.ToString();
        });
    EXPECT_EQ(digests[i], digests[0]) << i;
  }
  EXPECT_EQ(digests[0].size(), 32u);
  EXPECT_GT(arrays[0].size(), 300'000u);
  EXPECT_TRUE(arrays[1] == arrays[0]);  // all layers and experts on each of three ranks
}

TEST(KeptFp8Weights, WhatIsNotInFp8IsRefusedByName) {
  const KeptFiles kept;
  OneRank rank(AdaptersOn(kept, "BF16", true));
  // The run that the release was made of has FP32 masters.
  LoadOptions options;
  options.weights_only = options.merge_adapters = true;
  const std::string masters =
      std::filesystem::directory_iterator(kept.dir.File("made/checkpoints"))->path().string();
  data::ExpectStatus(LoadState(*rank.model, masters, options, *kept.files).status(),
                     absl::StatusCode::kFailedPrecondition,
                     {"tensor model.layers.0",
                      ".weight: found masters in f32, wanted e4m3 with "
                      "compute.keep_fp8_weights"});
  RunConfig config = AdaptersOn(kept, "BF16", true);
  config.mutable_compute()->set_device("cuda");
  data::ExpectStatus(Resolve(config, 1).status(), absl::StatusCode::kInvalidArgument,
                     {"compute.keep_fp8_weights: found true, wanted false with compute.device"});
}

}  // namespace
}  // namespace sluice::trainer
