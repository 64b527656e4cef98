// What a training step takes from the heap and from the system: every call of malloc, calloc,
// realloc, aligned_alloc, posix_memalign and mmap in the process between two step lines of a real
// run (reading the batch, the step, the line and metrics.jsonl included), on all threads.
//   step_allocations_bench PRECISION THREADS RUN_DIR [--json FILE]
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
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
#include "trainer/loop/trainer.h"

namespace sluice::bench {
namespace {

// What DESIGN calls large: what the C library itself takes from the system piece by piece.
constexpr size_t kLargeBytes = size_t{128} << 10;

struct Counters {
  std::atomic<int64_t> calls{0}, bytes{0}, large{0}, mappings{0}, largest{0};
};
constinit Counters counters;

void Count(size_t bytes) {
  counters.calls.fetch_add(1, std::memory_order_relaxed);
  counters.bytes.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  if (bytes >= kLargeBytes) counters.large.fetch_add(1, std::memory_order_relaxed);
  int64_t seen = counters.largest.load(std::memory_order_relaxed);
  while (static_cast<int64_t>(bytes) > seen &&
         !counters.largest.compare_exchange_weak(seen, static_cast<int64_t>(bytes))) {
  }
}

}  // namespace
}  // namespace sluice::bench

// The program's own definitions go before those of the C library, whose true names stay reachable.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t bytes) {
  sluice::bench::Count(bytes);
  return __libc_malloc(bytes);
}
void* calloc(size_t n, size_t bytes) {
  sluice::bench::Count(n * bytes);
  return __libc_calloc(n, bytes);
}
void* realloc(void* old, size_t bytes) {
  sluice::bench::Count(bytes);
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  sluice::bench::Count(bytes);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  sluice::bench::Count(bytes);
  *out = __libc_memalign(alignment, bytes);
  return *out == nullptr ? ENOMEM : 0;
}
void* mmap(void* address, size_t bytes, int protection, int flags, int file, off_t offset) {
  using Map = void* (*)(void*, size_t, int, int, int, off_t);
  static const Map real = reinterpret_cast<Map>(dlsym(RTLD_NEXT, "mmap"));
  sluice::bench::counters.mappings.fetch_add(1, std::memory_order_relaxed);
  return real(address, bytes, protection, flags, file, offset);
}
}

namespace sluice::bench {
namespace {

struct Step {
  int64_t calls, bytes, large, mappings, largest;
};

Step Take() {
  return {counters.calls.exchange(0), counters.bytes.exchange(0), counters.large.exchange(0),
          counters.mappings.exchange(0), counters.largest.exchange(0)};
}

// The steps of a run of preset bench_cpu.
std::vector<Step> Measure(const std::string& precision, int threads, const std::string& dir) {
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
  std::vector<Step> steps;
  steps.reserve(1000);
  trainer::RankContext rank;
  rank.world = world.get();
  rank.device = device->get();
  rank.print = [&](const std::string& line) {
    if (line.rfind("step ", 0) != 0 || line.find("| loss") == std::string::npos) return;
    steps.push_back(Take());
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
  const std::vector<Step> steps = Measure(precision, threads, report.parts()[2]);
  std::printf("%s, %d threads\n%5s %8s %12s %8s %8s %10s\n", precision.c_str(), threads, "step",
              "calls", "bytes", "large", "mmap", "largest");
  Step worst = {0, 0, 0, 0, 0};
  const size_t warm = steps.size() / 2;
  for (size_t i = 0; i < steps.size(); ++i) {
    const Step& s = steps[i];
    if (i < 4 || i + 1 == steps.size())
      std::printf("%5zu %8ld %12ld %8ld %8ld %10ld\n", i + 1, s.calls, s.bytes, s.large, s.mappings,
                  s.largest);
    if (i < warm) continue;
    worst = {std::max(worst.calls, s.calls), std::max(worst.bytes, s.bytes),
             std::max(worst.large, s.large), std::max(worst.mappings, s.mappings),
             std::max(worst.largest, s.largest)};
  }
  report.Add({{"what", "allocations"}, {"precision", precision}}, {{"threads", threads},
                                                                   {"calls", worst.calls},
                                                                   {"bytes", worst.bytes},
                                                                   {"large", worst.large},
                                                                   {"mappings", worst.mappings},
                                                                   {"largest", worst.largest}});
  std::printf(
      "worst of steps %zu to %zu: %ld calls, %ld bytes, %ld of 128 KiB and more, %ld mmap\n",
      warm + 1, steps.size(), worst.calls, worst.bytes, worst.large, worst.mappings);
  return 0;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::Report report(argc, argv);
  return sluice::bench::Main(report);
}
