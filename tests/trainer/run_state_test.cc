// What a run saves on one mesh, another mesh reads: the same state, whoever held it.
#include "trainer/loop/run_state.h"

#include <malloc.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "checkpoints/digest.h"
#include "checkpoints/faulty_file_system.h"
#include "checkpoints/memory_file_system.h"
#include "gtest/gtest.h"
#include "kernels/core/philox.h"
#include "tests/support/sanitized.h"
#include "tests/support/thread_ranks.h"
#include "tests/trainer/one_rank.h"
#include "tests/trainer/small_run.h"
#include "trainer/loop/rank_model.h"

namespace sluice::trainer {
namespace {

RunState StateOfStepNine(const RunConfig& config, int num_gates) {
  RunState state;
  state.step = 9;
  state.updates = 8;
  state.next_sample = 9 * 32;
  state.skipped_in_a_row = 1;
  state.tokenizer_hash = "vocabulary";
  state.data_identity = "data";
  for (int i = 0; i < num_gates * config.model().n_routed_experts(); ++i) {
    state.load.push_back(1000 + 7 * i);
  }
  return state;
}

// Values that no initialization gives, by the place in this rank's shard and the rank.
void Scramble(RankModel& model) {
  uint64_t counter = static_cast<uint64_t>(model.world().rank()) << 40;
  const auto fill = [&](const TensorView& array) {
    for (int64_t i = 0; i < array.num_elements(); ++i) {
      const uint32_t bits = Philox(PhiloxKey(1, RandomPurpose::kTest), counter++)[0];
      if (array.dtype() == DType::kF32) {
        array.mutable_data<float>()[i] = UniformFromBits(bits) - 0.5f;
      } else {
        static_cast<uint16_t*>(array.raw_mutable_data())[i] = bits & 0x3fff;  // BF16
      }
    }
  };
  for (int g = 0; g < kNumParameterGroups; ++g) {
    parallel::ShardedAdamW* optimizer = model.optimizer(static_cast<ParameterGroup>(g));
    if (optimizer == nullptr) continue;
    fill(optimizer->master());
    fill(optimizer->first_moment());
    fill(optimizer->second_moment());
    if (!optimizer->average().is_null()) fill(optimizer->average());
  }
}

using Body = std::function<void(RankModel& model)>;

void OnRanks(const RunConfig& config, const Layout& layout, const Body& body) {
  const RunConfig resolved = ConfigOn(config, layout);
  testing::RunThreadRanks(layout.world(), kernels::CpuStreamMode::kInline,
                          [&](parallel::Communicator& group, kernels::DeviceContext& device) {
                            auto model =
                                RankModel::Create(resolved, {.world = &group, .device = &device});
                            ASSERT_TRUE(model.ok()) << model.status();
                            body(**model);
                          });
}

// Saves to `dir` what `make` leaves in the models; returns the generation's folder.
std::string SaveOn(const RunConfig& config, const Layout& layout, const std::string& dir,
                   checkpoints::FileSystem& files,
                   const std::function<RunState(RankModel& model)>& make) {
  std::mutex mutex;
  std::string path;
  OnRanks(config, layout, [&](RankModel& model) {
    const RunState state = make(model);
    const SaveOptions options = {.dir = dir, .log = [](absl::string_view) {}};
    const auto saved = SaveState(model, state, options, files);
    ASSERT_TRUE(saved.ok()) << saved.status();
    const std::lock_guard<std::mutex> lock(mutex);
    path = *saved;
  });
  return path;
}

std::string DigestOf(const std::string& generation, checkpoints::FileSystem& files) {
  auto reader = checkpoints::CheckpointReader::Open(files, generation);
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return "";
  const auto digest = checkpoints::DigestOfCheckpoint(**reader);
  EXPECT_TRUE(digest.ok()) << digest.status();
  return digest.ok() ? digest->ToString() : "";
}

const std::vector<Layout>& Layouts() {
  static const std::vector<Layout> layouts = {
      {},
      {.data = 2},
      {.data = 4, .expert = 2},
      {.data = 4, .expert = 4},
      {.pipe = 2},
      {.pipe = 4},
      {.pipe = 2, .data = 2, .expert = 2},
      {.pipe = 2, .schedule = "interleaved", .chunks = 2},
      {.pipe = 2, .data = 2, .expert = 2, .schedule = "dualpipe"},
      {.pipe = 2, .schedule = "dualpipe_v", .chunks = 2},
  };
  return layouts;
}

class SaveAndLoad : public ::testing::TestWithParam<RunConfig> {};

TEST_P(SaveAndLoad, OnAnyMeshGivesTheSameDigest) {
  checkpoints::MemoryFileSystem files;
  int number = 0;
  int pair = 0;
  for (const Layout& from : Layouts()) {
    const std::string first =
        SaveOn(GetParam(), from, "/from" + std::to_string(number++), files, [&](RankModel& model) {
          Scramble(model);
          EXPECT_TRUE(model.PublishWeights().ok());
          return StateOfStepNine(model.config(), model.num_gates());
        });
    const std::string digest = DigestOf(first, files);
    EXPECT_NE(digest.find("adam_v/model.layers.3.mlp.experts.7.up_proj.weight"), std::string::npos);
    for (const Layout& to : Layouts()) {
      if (testing::kSanitized && pair++ % 3 != 0) continue;
      const std::string second =
          SaveOn(GetParam(), to, "/to" + std::to_string(number++), files, [&](RankModel& model) {
            const auto loaded = LoadState(model, first, LoadOptions(), files);
            EXPECT_TRUE(loaded.ok()) << loaded.status();
            EXPECT_EQ(loaded->tokenizer_hash, "vocabulary");
            EXPECT_EQ(loaded->data_identity, "data");
            return *loaded;
          });
      EXPECT_EQ(DigestOf(second, files), digest) << from.Name() << " to " << to.Name();
    }
  }
}

RunConfig Small(const std::string& precision, const std::string& moments, bool tied) {
  RunConfig config = SmallConfig(precision);
  config.mutable_train()->set_moment_dtype(moments);
  config.mutable_model()->set_tie_word_embeddings(tied);
  return config;
}

INSTANTIATE_TEST_SUITE_P(All, SaveAndLoad,
                         ::testing::Values(Small("FP32", "FP32", false),
                                           Small("BF16", "BF16", true)),
                         [](const auto& info) { return info.index == 0 ? "Fp32" : "Bf16Tied"; });

// Notes how many bytes of the heap are taken at each write.
class HeapWatch : public checkpoints::FaultyFileSystem {
 public:
  using FaultyFileSystem::FaultyFileSystem;
  absl::StatusOr<std::unique_ptr<checkpoints::WritableFile>> CreateFile(
      const std::string& path) override {
    auto file = FaultyFileSystem::CreateFile(path);
    if (!file.ok()) return file;
    return std::make_unique<Watched>(*std::move(file), *this);
  }
  static int64_t HeapBytes() {
    const struct mallinfo2 info = mallinfo2();
    return static_cast<int64_t>(info.uordblks + info.hblkhd);
  }
  int64_t most() const { return most_; }
  int64_t written() const { return written_; }

 private:
  class Watched : public checkpoints::WritableFile {
   public:
    Watched(std::unique_ptr<checkpoints::WritableFile> file, HeapWatch& watch)
        : file_(std::move(file)), watch_(watch) {}
    absl::StatusOr<int64_t> Write(absl::string_view bytes) override {
      watch_.most_ = std::max(watch_.most_, HeapBytes());
      watch_.written_ += static_cast<int64_t>(bytes.size());
      return file_->Write(bytes);
    }
    absl::Status Sync() override { return file_->Sync(); }
    absl::Status Close() override { return file_->Close(); }

   private:
    std::unique_ptr<checkpoints::WritableFile> file_;
    HeapWatch& watch_;
  };
  int64_t most_ = 0, written_ = 0;
};

// (A sanitizer's heap tells nothing: there the test only saves.)
TEST(SaveState, NeedsNoSecondCopyOfTheState) {
  RunConfig config = SmallConfig("BF16");
  config.mutable_model()->set_vocab_size(20'000);
  OneRank rank(config);
  const std::string dir = ::testing::TempDir() + "/save_without_a_copy";
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  const auto posix = checkpoints::CreatePosixFileSystem();
  HeapWatch files(*posix);
  const RunState state = StateOfStepNine(config, rank.model->num_gates());
  const int64_t before = HeapWatch::HeapBytes();
  const SaveOptions options = {.dir = dir, .log = [](absl::string_view) {}};
  const auto saved = SaveState(*rank.model, state, options, files);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_GT(files.written(), 24 << 20);
  // A chunk of 1 MiB, and the records of some hundred tensors.
  EXPECT_LE(files.most() - before, 2 << 20);
  std::filesystem::remove_all(dir);
}

TEST(LoadState, WeightsOnlyLeavesTheMomentsAlone) {
  checkpoints::MemoryFileSystem files;
  const RunConfig config = SmallConfig("FP32");
  const std::string generation = SaveOn(config, {.data = 2}, "/a", files, [&](RankModel& model) {
    Scramble(model);
    return StateOfStepNine(model.config(), model.num_gates());
  });
  OnRanks(config, {}, [&](RankModel& model) {
    ASSERT_TRUE(model.InitializeWeights().ok());
    const auto state = LoadState(model, generation, {.weights_only = true}, files);
    ASSERT_TRUE(state.ok()) << state.status();
    const ConstTensorView moment = model.optimizer(ParameterGroup::kDense)->first_moment();
    for (int64_t i = 0; i < moment.num_elements(); ++i) ASSERT_EQ(moment.data<float>()[i], 0.0f);
  });
}

RunConfig WithAverage() {
  RunConfig config = SmallConfig("BF16");
  config.mutable_train()->set_ema_decay(0.5);
  return config;
}

INSTANTIATE_TEST_SUITE_P(Average, SaveAndLoad, ::testing::Values(WithAverage()));

TEST(LoadState, TheAverageTakesThePlaceOfTheMasters) {
  checkpoints::MemoryFileSystem files;
  std::vector<float> average;
  const std::string generation = SaveOn(WithAverage(), {}, "/a", files, [&](RankModel& model) {
    Scramble(model);
    const ConstTensorView held = model.optimizer(ParameterGroup::kDense)->average();
    average.assign(held.data<float>(), held.data<float>() + held.num_elements());
    return StateOfStepNine(model.config(), model.num_gates());
  });
  OnRanks(WithAverage(), {}, [&](RankModel& model) {
    const LoadOptions options = {.weights_only = true, .weights = checkpoints::WeightSet::kAverage};
    const auto state = LoadState(model, generation, options, files);
    ASSERT_TRUE(state.ok()) << state.status();
    parallel::ShardedAdamW& dense = *model.optimizer(ParameterGroup::kDense);
    // Where no tensor lies there is padding, which nobody stores.
    model.store().ForEachRun(ParameterGroup::kDense, dense.shard_begin(), dense.shard_end(),
                             [&](const Parameter& /*parameter*/, const NamedPiece& piece,
                                 int64_t /*named_begin*/, int64_t flat_begin, int64_t count) {
                               for (int64_t i = flat_begin; i < flat_begin + count; ++i) {
                                 ASSERT_EQ(dense.master().data<float>()[i], average[i])
                                     << piece.name;
                                 ASSERT_EQ(dense.average().data<float>()[i], average[i]);
                               }
                             });
  });
}

TEST(LoadState, WithoutAnAverageNoneIsFound) {
  checkpoints::MemoryFileSystem files;
  const std::string generation =
      SaveOn(SmallConfig("FP32"), {}, "/a", files, [&](RankModel& model) {
        EXPECT_TRUE(model.InitializeWeights().ok());
        return StateOfStepNine(model.config(), model.num_gates());
      });
  OnRanks(SmallConfig("FP32"), {}, [&](RankModel& model) {
    const LoadOptions options = {.weights_only = true, .weights = checkpoints::WeightSet::kAverage};
    const auto state = LoadState(model, generation, options, files);
    EXPECT_EQ(state.status().message(),
              "checkpoint " + generation +
                  " has no average of its weights, wanted one of a run with train.ema_decay");
  });
}

TEST(LoadState, AModelOfAnotherShapeIsRefusedOnEveryRank) {
  checkpoints::MemoryFileSystem files;
  const std::string generation =
      SaveOn(SmallConfig("FP32"), {}, "/a", files, [&](RankModel& model) {
        EXPECT_TRUE(model.InitializeWeights().ok());
        return StateOfStepNine(model.config(), model.num_gates());
      });
  RunConfig wider = SmallConfig("FP32");
  wider.mutable_model()->set_hidden_size(64);
  OnRanks(wider, {.pipe = 2}, [&](RankModel& model) {
    const auto state = LoadState(model, generation, LoadOptions(), files);
    ASSERT_FALSE(state.ok());
    EXPECT_NE(state.status().message().find("master/"), std::string::npos) << state.status();
  });
}

}  // namespace
}  // namespace sluice::trainer
