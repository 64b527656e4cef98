// Our collectives over MPI against MPI's own, in turns:  launch/run -np 2
// build/tests/bench/collective_bench [reduce_scatter ...] [--json FILE]   default: all. bytes: the
// larger of a rank's input and output. algbw is bytes over time; busbw also counts how often each
// byte must cross a link, as nccl-tests does (its PERFORMANCE.md).
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "parallel/comm/mpi.h"
#include "tests/bench/report.h"
#include "tests/bench/timing.h"

namespace sluice::bench {
namespace {

using kernels::DType;
using kernels::TensorView;
using parallel::Communicator;
using parallel::ReduceOp;

constexpr int kRounds = 15;
constexpr double kSecondsPerSample = 0.01;

struct Collective {
  const char* name;
  double bus_factor;  // busbw / algbw
  std::function<void()> ours;
  std::vector<std::pair<const char*, std::function<void()>>> theirs;
  std::function<int64_t()> count_wrong;  // after a call of ours
};

// Buffers of one size; a float's value is its rank + 1 so that sums are exact.
struct Buffers {
  Buffers(int64_t num_floats, int rank) : in(num_floats, static_cast<float>(rank + 1)), out(in) {}
  TensorView In() { return View(in, static_cast<int64_t>(in.size())); }
  TensorView Out() { return View(out, static_cast<int64_t>(out.size())); }
  static TensorView View(std::vector<float>& data, int64_t n) {
    return TensorView(data.data(), DType::kF32, {n});
  }
  std::vector<float> in, out;
};

void CheckOk(const absl::Status& status) { CHECK(status.ok()) << status.ToString(); }

class Bench {
 public:
  Bench(Communicator& world, kernels::Stream& stream, Report& report)
      : world_(world), stream_(stream), report_(report) {}

  void Run(int64_t bytes) {
    const int64_t n = bytes / static_cast<int64_t>(sizeof(float));
    Buffers buffers(n, world_.rank());
    const std::vector<std::string>& parts = report_.parts();
    for (const Collective& collective : Collectives(buffers, n)) {
      if (parts.empty() || std::find(parts.begin(), parts.end(), collective.name) != parts.end())
        Measure(collective, bytes);
    }
  }

 private:
  std::vector<Collective> Collectives(Buffers& buffers, int64_t n) {
    const int num_ranks = world_.size(), rank = world_.rank();
    const int64_t part = n / num_ranks;
    const int count = static_cast<int>(n), part_count = static_cast<int>(part);
    const double share = static_cast<double>(num_ranks - 1) / num_ranks;
    const float sum = static_cast<float>(num_ranks * (num_ranks + 1) / 2);
    Buffers* b = &buffers;
    const TensorView in = b->In(), out = b->Out();
    const auto wrong = [b](int64_t begin, int64_t end, float want) {
      return std::count_if(b->out.begin() + begin, b->out.begin() + end,
                           [want](float x) { return x != want; });
    };
    const auto wrong_by_rank = [=] {
      int64_t sum_wrong = 0;
      for (int p = 0; p < num_ranks; ++p) {
        sum_wrong += wrong(p * part, (p + 1) * part, static_cast<float>(p + 1));
      }
      return sum_wrong;
    };
    const std::vector<int64_t> rows(num_ranks, 1);
    const std::vector<int> counts(num_ranks, part_count);
    const TensorView in_rows = in.Reshape({num_ranks, part}),
                     out_rows = out.Reshape({num_ranks, part});
    const int next = (rank + 1) % num_ranks, previous = (rank + num_ranks - 1) % num_ranks;
    return {
        {"reduce_scatter",
         share,
         [=, this] {
           CheckOk(world_.ReduceScatter(in, out.Rows(0, part), ReduceOp::kSum, stream_));
         },
         {{"MPI_Reduce_scatter_block",
           [=] {
             MPI_Reduce_scatter_block(b->in.data(), b->out.data(), part_count, MPI_FLOAT, MPI_SUM,
                                      MPI_COMM_WORLD);
           }},
          {"MPI_Reduce_scatter",
           [=] {
             MPI_Reduce_scatter(b->in.data(), b->out.data(), counts.data(), MPI_FLOAT, MPI_SUM,
                                MPI_COMM_WORLD);
           }}},
         [=] { return wrong(0, part, sum); }},
        {"all_gather",
         share,
         [=, this] { CheckOk(world_.AllGather(in.Rows(0, part), out, stream_)); },
         {{"MPI_Allgather",
           [=] {
             MPI_Allgather(b->in.data(), part_count, MPI_FLOAT, b->out.data(), part_count,
                           MPI_FLOAT, MPI_COMM_WORLD);
           }}},
         wrong_by_rank},
        {"all_to_all",
         share,
         [=, this] { CheckOk(world_.AllToAll(in_rows, rows, out_rows, rows, stream_)); },
         {{"MPI_Alltoall",
           [=] {
             MPI_Alltoall(b->in.data(), part_count, MPI_FLOAT, b->out.data(), part_count, MPI_FLOAT,
                          MPI_COMM_WORLD);
           }}},
         wrong_by_rank},
        {"send_receive",
         1.0,
         [=, this] {
           CheckOk(world_.Send(in, next, 0, stream_));
           CheckOk(world_.Receive(out, previous, 0, stream_));
         },
         {{"MPI_Sendrecv",
           [=] {
             MPI_Sendrecv(b->in.data(), count, MPI_FLOAT, next, 0, b->out.data(), count, MPI_FLOAT,
                          previous, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
           }}},
         [=] { return wrong(0, n, static_cast<float>(previous + 1)); }},
        // Last, since it is in place: values grow with every call, so wrong is not counted on them.
        {"all_reduce",
         2 * share,
         [=, this] {
           std::copy(b->in.begin(), b->in.end(), b->out.begin());
           CheckOk(world_.AllReduce(out, ReduceOp::kSum, stream_));
         },
         {{"MPI_Allreduce",
           [=] {
             MPI_Allreduce(b->in.data(), b->out.data(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
           }}},
         [=] { return wrong(0, n, sum); }},
    };
  }

  // The slowest rank's seconds per call.
  double Sample(const std::function<void()>& run, int repeats) {
    CheckOk(world_.Barrier());
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) run();
    double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / repeats;
    CheckOk(world_.AllReduce(TensorView(&seconds, DType::kF64, {1}), ReduceOp::kMax, stream_));
    return seconds;
  }

  void Measure(const Collective& collective, int64_t bytes) {
    std::vector<std::function<void()>> runs = {collective.ours};
    for (const auto& [name, run] : collective.theirs) runs.push_back(run);
    std::vector<std::vector<double>> samples(runs.size());
    std::vector<int> repeats;
    for (const auto& run : runs) {
      run();
      repeats.push_back(std::clamp(static_cast<int>(kSecondsPerSample / Sample(run, 2)), 1, 10000));
    }
    for (int round = 0; round < kRounds; ++round) {
      for (size_t i = 0; i < runs.size(); ++i) samples[i].push_back(Sample(runs[i], repeats[i]));
    }
    for (auto& each : samples) std::sort(each.begin(), each.end());
    collective.ours();
    int64_t wrong = collective.count_wrong();
    CheckOk(world_.AllReduce(TensorView(&wrong, DType::kI64, {1}), ReduceOp::kSum, stream_));
    if (world_.rank() != 0) return;
    const double seconds = samples[0][kRounds / 4], gigabytes = static_cast<double>(bytes) * 1e-9;
    std::printf("%-15s %10lld %11.1f %11.1f %12.2f %12.2f %7lld  ", collective.name,
                static_cast<long long>(bytes), seconds * 1e6, samples[0].back() * 1e6,  // NOLINT
                gigabytes / seconds, gigabytes / seconds * collective.bus_factor,
                static_cast<long long>(wrong));  // NOLINT
    for (size_t i = 0; i < collective.theirs.size(); ++i) {
      const double peer = samples[i + 1][kRounds / 4];
      std::printf(" %s %.1f us (ours %.2fx)", collective.theirs[i].first, peer * 1e6,
                  peer / seconds);
      report_.Add(
          {{"what", "collective"}, {"name", collective.name}, {"peer", collective.theirs[i].first}},
          {{"ranks", world_.size()},
           {"bytes", static_cast<double>(bytes)},
           {"seconds", seconds},
           {"peer_seconds", peer},
           {"wrong", static_cast<double>(wrong)}});
    }
    std::printf("\n");
    std::fflush(stdout);
  }

  Communicator& world_;
  kernels::Stream& stream_;
  Report& report_;
};

int Main(int argc, char** argv) {
  auto session = parallel::MpiSession::Create(&argc, &argv);
  CheckOk(session.status());
  const auto world = (*session)->World();
  // After MPI has taken its own arguments.
  Report report(argc, argv);
  auto device = kernels::DeviceContext::Create({});
  CheckOk(device.status());
  if (world->rank() == 0) {
    PrintEnvironment();
    std::printf("ranks %d; p25 and max over %d samples of the slowest rank\n", world->size(),
                kRounds);
    std::printf("%-15s %10s %11s %11s %12s %12s %7s   peer\n", "collective", "bytes", "p25 us",
                "max us", "algbw GB/s", "busbw GB/s", "#wrong");
  }
  Bench bench(*world, (*device)->stream(kernels::StreamRole::kComm), report);
  for (const int64_t kib : {4, 64, 1024, 4096, 16384}) bench.Run(kib * 1024);
  return 0;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) { return sluice::bench::Main(argc, argv); }
