// What a training step takes from the heap and from the system: everything in the process between
// two step lines of a real run (reading the batch, the step, the line and metrics.jsonl included),
// on all threads.
//   step_allocations_bench PRECISION THREADS RUN_DIR [--json FILE]
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "launch/bundled_text.h"
#include "launch/load_config.h"
#include "launch/rank_context.h"
#include "parallel/comm/communicator.h"
#include "tests/bench/report.h"
#include "tests/bench/timing.h"
#include "tests/heap/heap_counter.h"
#include "trainer/loop/trainer.h"

namespace sluice::bench {
namespace {

using ::sluice::testing::HeapUse;

// The steps of a run of preset bench_cpu.
std::vector<HeapUse> Measure(const std::string& precision, int threads, const std::string& dir) {
  launch::ConfigFlags flags;
  flags.preset = "bench_cpu";
  flags.edits = {"compute.precision=" + precision, "compute.threads=" + std::to_string(threads),
                 "run.dir=" + dir, "train.steps=24", "eval.batches=1"};
  auto written = launch::LoadConfig(flags);
  CHECK(written.ok()) << written.status().ToString();
  CHECK(launch::UseBundledText(*written).ok());
  const auto config = trainer::Resolve(*written, 1);
  CHECK(config.ok()) << config.status().ToString();
  auto device = launch::CreateDevice(config->compute(), launch::CommandContext());
  CHECK(device.ok()) << device.status().ToString();
  const auto world = parallel::CreateSelfCommunicator();
  std::vector<HeapUse> steps;
  steps.reserve(1000);
  trainer::RankContext rank;
  rank.world = world.get();
  rank.device = device->get();
  rank.print = [&](const std::string& line) {
    if (line.rfind("step ", 0) != 0 || line.find("| loss") == std::string::npos) return;
    steps.push_back(::sluice::testing::TakeHeapUse());
  };
  const absl::Status status = trainer::Train(*config, rank);
  CHECK(status.ok()) << status.ToString();
  return steps;
}

int Main(Report& report) {
  CHECK_EQ(report.parts().size(), size_t{3}) << "wanted PRECISION THREADS RUN_DIR";
  const std::string precision = report.parts()[0];
  const int threads = std::atoi(report.parts()[1].c_str());
  PrintEnvironment();
  const std::vector<HeapUse> steps = Measure(precision, threads, report.parts()[2]);
  std::printf("%s, %d threads\n%5s %8s %12s %8s %8s %10s\n", precision.c_str(), threads, "step",
              "calls", "bytes", "large", "mmap", "largest");
  HeapUse worst;
  const size_t warm = steps.size() / 2;
  for (size_t i = 0; i < steps.size(); ++i) {
    const HeapUse& s = steps[i];
    if (i < 4 || i + 1 == steps.size())
      std::printf("%5zu %8ld %12ld %8ld %8ld %10ld\n", i + 1, s.calls, s.bytes, s.large, s.mappings,
                  s.largest);
    if (i < warm) continue;
    worst = MaxOf(worst, s);
  }
  report.Add({{"what", "allocations"}, {"precision", precision}}, {{"threads", threads},
                                                                   {"calls", worst.calls},
                                                                   {"bytes", worst.bytes},
                                                                   {"large", worst.large},
                                                                   {"mappings", worst.mappings},
                                                                   {"largest", worst.largest}});
  std::printf("worst of steps %zu to %zu: %ld calls, %ld bytes, %ld of 64 KiB and more, %ld mmap\n",
              warm + 1, steps.size(), worst.calls, worst.bytes, worst.large, worst.mappings);
  return 0;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::Report report(argc, argv);
  return sluice::bench::Main(report);
}
