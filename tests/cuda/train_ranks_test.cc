// `sluice train` on two ranks, each with a software device: messages by NCCL (a library made of
// software) against messages through the host by MPI. Sums are in rank order either way, so the
// runs agree to the bit.
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/training_text.h"
#include "tests/launch/json_rows.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

struct Layout {
  const char* name;
  const char* edits;
};
void PrintTo(const Layout& layout, std::ostream* out) { *out << layout.name; }

class CudaRanks : public OnTrainingText, public ::testing::WithParamInterface<Layout> {
 protected:
  // Two steps of 32 tokens.
  launch::Outcome Train(const std::string& device, const std::string& collectives) const {
    const std::string double_first =
        device == "cuda" ? "LD_LIBRARY_PATH=" SLUICE_CUDA_DOUBLE " " : "";
    return launch::RunShell(
        double_first + testing::SourcePath("launch/run") + " -np 2 " + SLUICE_BINARY +
        " train --preset tiny --set train.global_batch=2 --set compute.threads=1" +
        " --set train.sequence_length=16" + " --set train.steps=2 --set data.train=" + dir_ +
        "/train.txt" + " --set data.cache_dir=" + dir_ +
        "/cache --set run.dir=" + RunDir(device, collectives) + " --set compute.device=" + device +
        " --set compute.collectives=" + collectives + " " + GetParam().edits);
  }
  std::string RunDir(const std::string& device, const std::string& collectives) const {
    return dir_ + "/" + device + "_" + collectives;
  }
  std::vector<nlohmann::json> Steps(const std::string& device,
                                    const std::string& collectives) const {
    return launch::JsonRows(RunDir(device, collectives) + "/metrics.jsonl");
  }
};

TEST_P(CudaRanks, NcclGivesTheBitsOfMpi) {
  const launch::Outcome nccl = Train("cuda", "nccl");
  ASSERT_EQ(nccl.exit_code, 0) << nccl.err;
  EXPECT_THAT(nccl.out, HasSubstr("messages between GPUs by NCCL 2."));
  const launch::Outcome host = Train("cuda", "host");
  ASSERT_EQ(host.exit_code, 0) << host.err;
  const launch::Outcome cpu = Train("cpu", "host");
  ASSERT_EQ(cpu.exit_code, 0) << cpu.err;
  const auto by_nccl = Steps("cuda", "nccl"), by_host = Steps("cuda", "host"),
             on_cpu = Steps("cpu", "host");
  ASSERT_EQ(by_nccl.size(), 2u);
  ASSERT_EQ(by_host.size(), 2u);
  ASSERT_EQ(on_cpu.size(), 2u);
  for (size_t i = 0; i < by_nccl.size(); ++i) {
    for (const char* key : {"loss_hex", "grad_norm_hex"}) {
      EXPECT_EQ(by_nccl[i][key], by_host[i][key]) << key << " of step " << i + 1;
    }
    const double loss = on_cpu[i]["loss"].get<double>();
    EXPECT_NEAR(by_nccl[i]["loss"].get<double>(), loss, 1e-5 * loss) << "step " << i + 1;
  }
}
INSTANTIATE_TEST_SUITE_P(Layouts, CudaRanks,
                         ::testing::Values(Layout{"experts_of_two",
                                                  "--set mesh.data=2 --set mesh.expert=2"},
                                           Layout{"pipe_of_two", "--set mesh.pipe=2"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CudaRanksRefusal, NcclNeedsAGpu) {
  const launch::Outcome outcome =
      launch::RunSluice("train --preset tiny --set compute.collectives=nccl");
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("compute.collectives: found nccl, wanted host with"));
}

// Neither the driver nor NCCL: both are found at run time, or not at all.
TEST(CudaRanksRefusal, TheProgramLinksNoNccl) {
  const launch::Outcome linked = launch::RunShell("readelf -d " SLUICE_BINARY);
  ASSERT_EQ(linked.exit_code, 0) << linked.err;
  EXPECT_THAT(linked.out, ::testing::Not(HasSubstr("libnccl")));
}

}  // namespace
}  // namespace sluice
