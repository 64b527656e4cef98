// One rank of `sluice train` on the software device against the CPU: losses of every step and every
// gradient tensor of the first. Both start from weights that the CPU has trained for a few steps:
// at initialisation all scores of a router are nearly equal, and in BF16 two backends that sum in
// another order (two SIMD targets of the CPU do) send some tokens to other experts.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "checkpoints/file_system.h"
#include "checkpoints/reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/newest_checkpoint.h"
#include "tests/cuda/training_text.h"
#include "tests/launch/json_rows.h"
#include "tests/launch/run_program.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kOnTheDouble[] = "LD_LIBRARY_PATH=" SLUICE_CUDA_DOUBLE " ";

struct Training {
  const char* precision;
  int steps;
  double bound;  // relative
};
constexpr int kStepsBefore = 30;
void PrintTo(const Training& training, std::ostream* out) { *out << training.precision; }

class CudaTraining : public OnTrainingText, public ::testing::WithParamInterface<Training> {
 protected:
  void SetUp() override {
    OnTrainingText::SetUp();
    const launch::Outcome outcome = Train("cpu", kStepsBefore, RunDir("before"), "");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }

  // 128 tokens a step of the preset's model, until `steps`; continues where it was.
  launch::Outcome Train(const std::string& device, int steps) const {
    return Train(device, steps, RunDir(device), " --set run.init_from=" + RunDir("before"));
  }
  launch::Outcome Train(const std::string& device, int steps, const std::string& run_dir,
                        const std::string& edits) const {
    const bool on_cuda = device == "cuda" && edits.find("--dry-run") == std::string::npos;
    return launch::RunShell(
        (on_cuda ? kOnTheDouble + ("CUDA_DOUBLE_LAUNCHES=" + Launches()) + " " : "") +
        std::string(SLUICE_BINARY) +
        " train --preset tiny --set train.global_batch=2 --set compute.threads=1" +
        " --set compute.precision=" + GetParam().precision + " --device " + device +
        " --set data.train=" + dir_ + "/train.txt --set train.steps=" + std::to_string(steps) +
        " --set data.cache_dir=" + dir_ + "/cache --set run.dir=" + run_dir + edits);
  }
  std::string Launches() const { return dir_ + "/launches"; }
  // How often a kernel whose name holds this was launched.
  int CountOf(const std::string& name) const {
    std::ifstream file(Launches());
    int count = 0;
    for (std::string line; std::getline(file, line);) count += line.find(name) != line.npos;
    return count;
  }
  std::string RunDir(const std::string& device) const { return dir_ + "/" + device; }

  // By step.
  std::vector<double> Losses(const std::string& device) const {
    std::vector<double> losses;
    for (const auto& row : launch::JsonRows(RunDir(device) + "/metrics.jsonl")) {
      losses.push_back(row["loss"].get<double>());
    }
    return losses;
  }

  // In reduced precision, that all sorts of products went by wgmma: codes by blocks and by columns,
  // BF16 along K and by columns (MatmulOperands 0 to 3).
  void ExpectKernelsOfHopper() const {
    const std::string precision = GetParam().precision;
    for (int operands = 0; operands < 4; ++operands) {
      const std::string name =
          "hopper_matmul_kernelILNS1_14MatmulOperandsE" + std::to_string(operands);
      const bool is_used = precision == "FP8" || (precision == "BF16" && operands >= 2);
      EXPECT_EQ(CountOf(name) > 0, is_used) << name;
      std::printf("%s: %d launches\n", name.c_str(), CountOf(name));
    }
    std::printf("by mma.sync: %d of codes, %d in BF16\n", CountOf("fp8_"),
                CountOf("matmul_kernelI13"));
  }

  // That the products went as the table of --dry-run says: "wgmma 128x64" for each tile that was
  // launched, and by mma.sync none but where it says so.
  void ExpectTheTableOfProducts() const {
    const launch::Outcome outcome = Train("cuda", 1, RunDir("cuda"), " --dry-run");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    const size_t table = outcome.out.find("products on a GPU");
    ASSERT_NE(table, std::string::npos) << outcome.out;
    std::set<std::string> said, launched;
    int m = 0, n = 0;
    for (size_t at = table; (at = outcome.out.find("wgmma ", at)) != std::string::npos; ++at) {
      ASSERT_EQ(std::sscanf(&outcome.out[at], "wgmma %dx%d", &m, &n), 2);
      said.insert(std::to_string(m) + "x" + std::to_string(n));
    }
    std::ifstream file(Launches());
    for (std::string line; std::getline(file, line);) {
      const size_t at = line.find("MatmulOperandsE");
      if (at == std::string::npos) continue;
      ASSERT_EQ(std::sscanf(&line[at], "MatmulOperandsE%*1dELi%dELi%dE", &m, &n), 2) << line;
      launched.insert(std::to_string(m) + "x" + std::to_string(n));
    }
    EXPECT_EQ(launched, said);
    int by_mma = 0;
    for (const char* name : {"fp8_matmul_kernel", "fp8_weight_gradient_kernel", "matmul_kernelI13",
                             "weight_gradient_kernelI13"}) {
      by_mma += CountOf(name);
    }
    EXPECT_EQ(by_mma > 0, outcome.out.find("mma.sync", table) != std::string::npos);
  }

  // Two runs with equal losses so far: the CPU's takes a step on CUDA, CUDA's one on the CPU.
  void ExpectEachGoesOnOnTheOther() const {
    const int steps = GetParam().steps + 1;
    const std::string edits = " --set run.init_from=" + RunDir("before");
    for (const std::string device : {"cpu", "cuda"}) {
      const std::string other = device == "cpu" ? "cuda" : "cpu";
      const launch::Outcome outcome = Train(device, steps, RunDir(other), edits);
      ASSERT_EQ(outcome.exit_code, 0) << device << ": " << outcome.err;
      EXPECT_THAT(outcome.out, HasSubstr("resuming"));
    }
    const std::vector<double> cuda = Losses("cuda"), cpu = Losses("cpu");
    ASSERT_EQ(static_cast<int>(cuda.size()), steps);
    ASSERT_EQ(cpu.size(), cuda.size());
    EXPECT_NEAR(cuda.back(), cpu.back(), GetParam().bound * cpu.back());
  }
};

// |a - b| / |b|; 0 for two tensors of zeros.
double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

// After one step the first moment is the gradient, times a factor that all tensors share.
void ExpectEqualGradients(const std::string& cuda_dir, const std::string& cpu_dir, double bound) {
  const auto files = checkpoints::CreatePosixFileSystem();
  auto cuda = checkpoints::CheckpointReader::Open(*files, NewestCheckpointOf(cuda_dir));
  auto cpu = checkpoints::CheckpointReader::Open(*files, NewestCheckpointOf(cpu_dir));
  ASSERT_TRUE(cuda.ok() && cpu.ok()) << cuda.status() << cpu.status();
  ASSERT_EQ((*cuda)->step(), 1);
  ASSERT_EQ((*cpu)->step(), 1);
  int tensors = 0;
  double worst = 0;
  for (const auto& record : (*cpu)->tensors()) {
    if (record.name().rfind("adam_m/", 0) != 0) continue;
    const checkpoints::TensorRecord* found = (*cuda)->Find(record.name());
    ASSERT_NE(found, nullptr) << record.name();
    const double distance = RelativeDistance(ReadWhole(**cuda, *found), ReadWhole(**cpu, record));
    EXPECT_LE(distance, bound) << record.name();
    worst = std::max(worst, distance);
    ++tensors;
  }
  EXPECT_GT(tensors, 50);  // 48 of experts alone
  std::printf("%d gradients, the worst %.2g apart, bound %.0e\n", tensors, worst, bound);
}

TEST_P(CudaTraining, LossesAndGradientsAreTheCpus) {
  const Training& training = GetParam();
  for (const std::string device : {"cpu", "cuda"}) {
    const launch::Outcome outcome = Train(device, 1);
    ASSERT_EQ(outcome.exit_code, 0) << device << ": " << outcome.err;
  }
  ExpectEqualGradients(RunDir("cuda"), RunDir("cpu"), training.bound);
  ExpectKernelsOfHopper();
  ExpectTheTableOfProducts();
  for (const std::string device : {"cpu", "cuda"}) {
    const launch::Outcome outcome = Train(device, training.steps);
    ASSERT_EQ(outcome.exit_code, 0) << device << ": " << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("resuming"));
  }
  const std::vector<double> cuda = Losses("cuda"), cpu = Losses("cpu");
  ASSERT_EQ(static_cast<int>(cuda.size()), training.steps);
  ASSERT_EQ(cpu.size(), cuda.size());
  double worst = 0;
  for (size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_NEAR(cuda[i], cpu[i], training.bound * cpu[i]) << "step " << i + 1;
    worst = std::max(worst, std::abs(cuda[i] / cpu[i] - 1));
  }

  std::printf("%d losses, the worst %.2g apart\n", training.steps, worst);
  ExpectEachGoesOnOnTheOther();
}
const auto kNameOf = [](const auto& info) { return std::string(info.param.precision); };
INSTANTIATE_TEST_SUITE_P(Precisions, CudaTraining, ::testing::Values(Training{"FP32", 3, 1e-5}),
                         kNameOf);
// In FP8 a sum in another order may end in the next E4M3 code, 1/16 away: the CPU's own SIMD
// targets are up to 0.19 apart in one tensor of this model's gradients.
INSTANTIATE_TEST_SUITE_P(SlowPrecisions, CudaTraining,
                         ::testing::Values(Training{"BF16", 10, 1e-2}, Training{"FP8", 10, 5e-2}),
                         kNameOf);

// Health reports in FP8, with a shared expert; 32 tokens a step.
class CudaFp8Report : public OnTrainingText {
 protected:
  // Until `steps`; continues where the run of that name was. The rows of metrics.jsonl.
  std::vector<nlohmann::json> Train(const std::string& device, size_t steps,
                                    const std::string& name, const std::string& edits) {
    const launch::Outcome outcome = launch::RunShell(
        (device == "cuda" ? kOnTheDouble : "") + std::string(SLUICE_BINARY) +
        " train --preset tiny --set train.global_batch=2 --set compute.threads=1" +
        " --set train.sequence_length=16 --set compute.precision=FP8" +
        " --set model.n_shared_experts=1 --set train.steps=" + std::to_string(steps) +
        " --set compute.device=" + device + " --set data.train=" + dir_ + "/train.txt" +
        " --set data.cache_dir=" + dir_ + "/cache --set run.dir=" + RunDir(name) + edits);
    EXPECT_EQ(outcome.exit_code, 0) << name << ": " << outcome.err;
    printed_ = outcome.out;
    std::vector<nlohmann::json> rows = launch::JsonRows(RunDir(name) + "/metrics.jsonl");
    EXPECT_EQ(rows.size(), steps) << name;
    rows.resize(steps);
    return rows;
  }
  std::string RunDir(const std::string& name) const { return dir_ + "/" + name; }

  std::string printed_;  // what the last run printed
};

// Weights, their codes and scales have the same bits on both. Of x and dy a value moves by 1/16
// where an operand before it ends in the next code, and what is lost are sums of such moves: a
// fifth apart at most (a tenth was seen).
void ExpectReportOf(const nlohmann::json& cuda, const nlohmann::json& cpu) {
  for (const char* operand : {"x", "w", "dy"}) {
    const nlohmann::json &a = cuda[operand], &b = cpu[operand];
    const bool same_bits = operand[0] == 'w';
    const double amax = b["amax"], count = b["count"];
    EXPECT_EQ(a["count"], b["count"]) << operand;
    EXPECT_EQ(a["clipped"], 0) << operand;
    EXPECT_NEAR(a["amax"].get<double>(), amax, same_bits ? 0 : amax / 16) << operand;
    EXPECT_NEAR(a["underflows"].get<double>(), b["underflows"].get<double>(),
                same_bits ? 0 : 0.001 * count)
        << operand;
  }
  for (const char* product : {"y", "dx", "dw"}) {
    const double found = cuda["error"][product], error = cpu["error"][product];
    EXPECT_GT(error, 0) << product;
    EXPECT_NEAR(found, error, 0.2 * error) << product;
    std::printf("error of %s: %.2g, %.2g on the CPU\n", product, found, error);
  }
}

// Every layer is sent back to BF16, as two operands in FP8 lose more than 0.1 %: it then has no
// report, also in a run that goes on from the checkpoint.
TEST_F(CudaFp8Report, IsTheCpusChangesNoBitAndSendsLayersBack) {
  const std::string reports = " --set fp8.report_every=1 --set fp8.demote_above=0.001";
  const nlohmann::json cuda = Train("cuda", 1, "cuda", reports)[0];
  EXPECT_THAT(printed_, HasSubstr("FP8 health of step 1"));
  EXPECT_THAT(printed_, HasSubstr("goes on in BF16"));
  const nlohmann::json silent = Train("cuda", 1, "silent", "")[0];
  for (const char* key : {"loss_hex", "grad_norm_hex"}) EXPECT_EQ(cuda[key], silent[key]) << key;
  ExpectEqualGradients(RunDir("cuda"), RunDir("silent"), 0);
  EXPECT_FALSE(silent.contains("fp8"));

  const nlohmann::json cpu = Train("cpu", 1, "cpu", reports)[0];
  const nlohmann::json &layers = cuda["fp8"], &wanted = cpu["fp8"];
  EXPECT_EQ(wanted.size(), 2u * (3 + 2 + 2));  // of 2 layers: attention, experts, shared expert
  ASSERT_EQ(layers.size(), wanted.size());
  for (const auto& [name, of] : wanted.items()) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(layers.contains(name));
    ExpectReportOf(layers[name], of);
  }

  const nlohmann::json next = Train("cuda", 2, "cuda", reports)[1];
  const nlohmann::json next_on_cpu = Train("cpu", 2, "cpu", reports)[1];
  EXPECT_FALSE(next.contains("fp8"));
  EXPECT_FALSE(next_on_cpu.contains("fp8"));
  const double loss = next_on_cpu["loss"];
  EXPECT_NEAR(next["loss"].get<double>(), loss, 1e-2 * loss);  // as in BF16
}

// One line on stderr, as every error that a user meets.
void ExpectRefusal(const std::string& environment, const std::string& edits,
                   const std::vector<std::string>& words) {
  const std::string dir = launch::TestFolder();
  const launch::Outcome outcome =
      launch::RunShell(environment + " " SLUICE_BINARY " train --preset tiny --set run.dir=" + dir +
                       "/run --set compute.device=cuda " + edits);
  EXPECT_NE(outcome.exit_code, 0) << outcome.out;
  for (const std::string& word : words) EXPECT_THAT(outcome.err, HasSubstr(word));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  std::filesystem::remove_all(dir);
}

TEST(CudaRefusal, AMachineWithoutAGpuIsOneSentence) {
  ExpectRefusal("CUDA_VISIBLE_DEVICES=-1", "", {"device cuda: found no usable GPU", "9.0"});
}

TEST(CudaRefusal, AnotherComputeCapabilityIsNamedWithTheOneWanted) {
  ExpectRefusal(std::string(kOnTheDouble) + "CUDA_DOUBLE_CAPABILITY=89", "",
                {"found 8.9", "wanted 9.0"});
}

TEST(CudaRefusal, ARunThatTheGpuHasNoRoomForIsOneSentence) {
  ExpectRefusal(
      std::string(kOnTheDouble) + "CUDA_DOUBLE_MEMORY=2000000", "--set data.bundled_sample=true",
      {"free on GPU 0000:01:00.0 of host ", "for its 1 rank (", "run.check_memory=false"});
}

TEST(CudaRefusal, WhatReadsHostMemoryIsRefusedByName) {
  ExpectRefusal(kOnTheDouble, "--set eval.sample_every=5", {"eval.sample_every", "wanted 0"});
}

// The driver's library is found at run time, or not at all: CPU ranks need none.
TEST(CudaRefusal, TheProgramDoesNotLinkTheDriver) {
  const launch::Outcome linked = launch::RunShell("readelf -d " SLUICE_BINARY);
  ASSERT_EQ(linked.exit_code, 0) << linked.err;
  EXPECT_THAT(linked.out, HasSubstr("libcudart.so"));
  EXPECT_THAT(linked.out, Not(HasSubstr("libcuda.so")));
}

}  // namespace
}  // namespace sluice
