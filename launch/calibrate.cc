#include "launch/calibrate.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/peak_rate.h"
#include "launch/calibrate_ops.h"
#include "launch/machine.h"
#include "parallel/comm/patience.h"

namespace sluice::launch {
namespace {

using kernels::DType;
using kernels::StreamRole;
using kernels::TensorView;
using parallel::Communicator;
using parallel::ReduceOp;

constexpr int kPeakSamples = 7;
constexpr double kPeakSeconds = 0.02;      // of a sample
constexpr int64_t kLargeBytes = 1 << 20;   // of messages and exchanges: a microbatch's
constexpr int64_t kArrayBytes = 32 << 20;  // of gradients and parameters

// Seconds of one rank -> the mean over ranks.
absl::StatusOr<double> MeanOverRanks(double value, Communicator& world, kernels::Stream& stream) {
  RETURN_IF_ERROR(world.AllReduce(TensorView(&value, DType::kF64, {1}), ReduceOp::kSum, stream));
  return value / world.size();
}

// The upper quartile of a few samples: as times are read elsewhere here, so that what else the
// machine does takes the same share of all.
absl::StatusOr<double> PeakRate(kernels::Stream& stream, DType dtype) {
  std::vector<double> rates(kPeakSamples);
  for (double& rate : rates) {
    ASSIGN_OR_RETURN(rate, kernels::MeasurePeakRate(stream, dtype, kPeakSeconds));
  }
  std::sort(rates.begin(), rates.end());
  return rates[kPeakSamples - 1 - kPeakSamples / 4];
}

// Messages between ranks 2i and 2i + 1, exchanges and reductions of all.
class Links {
 public:
  Links(Communicator& world, kernels::DeviceContext& device)
      : world_(world), stream_(device.stream(StreamRole::kComm)) {}

  absl::Status Measure(Calibration& to) {
    const int ranks = world_.size();
    if (ranks < 2) return absl::OkStatus();
    const int64_t large = kLargeBytes / ranks * ranks;
    const int64_t array = kArrayBytes / (4 * ranks) * 4 * ranks;
    in_.assign(array, '\0');
    out_.assign(array, '\0');
    ASSIGN_OR_RETURN(to.message_latency, Seconds([&] { return Message(ranks); }));
    ASSIGN_OR_RETURN(const double sent, Seconds([&] { return Message(large); }));
    ASSIGN_OR_RETURN(to.exchange_latency, Seconds([&] { return Exchange(ranks); }));
    ASSIGN_OR_RETURN(const double exchanged, Seconds([&] { return Exchange(large); }));
    ASSIGN_OR_RETURN(const double reduced, Seconds([&] { return Reduce(array); }));
    ASSIGN_OR_RETURN(const double gathered, Seconds([&] { return Gather(array); }));
    const double bytes = static_cast<double>(large), share = (ranks - 1.0) / ranks;
    to.message_rate = bytes / std::max(1e-9, sent - to.message_latency);
    to.exchange_rate = share * bytes / std::max(1e-9, exchanged - to.exchange_latency);
    const double all = share * static_cast<double>(array);
    to.reduce_rate = all / std::max(1e-9, reduced - to.exchange_latency);
    to.gather_rate = all / std::max(1e-9, gathered - to.exchange_latency);
    return absl::OkStatus();
  }

 private:
  // Half of a round trip; a last rank without a partner waits at the barrier.
  absl::StatusOr<double> Message(int64_t bytes) {
    const int rank = world_.rank(), peer = rank ^ 1;
    if (peer >= world_.size()) return 0;
    const TensorView in(in_.data(), DType::kU8, {bytes}), out(out_.data(), DType::kU8, {bytes});
    const double start = WallSeconds();
    if (rank < peer) RETURN_IF_ERROR(world_.Send(in, peer, 0, stream_));
    RETURN_IF_ERROR(world_.Receive(out, peer, 0, stream_));
    if (rank > peer) RETURN_IF_ERROR(world_.Send(in, peer, 0, stream_));
    return (WallSeconds() - start) / 2;
  }
  absl::StatusOr<double> Exchange(int64_t bytes) {
    const int64_t ranks = world_.size();
    const std::vector<int64_t> rows(ranks, 1);
    const TensorView in(in_.data(), DType::kU8, {ranks, bytes / ranks});
    const TensorView out(out_.data(), DType::kU8, {ranks, bytes / ranks});
    const double start = WallSeconds();
    RETURN_IF_ERROR(world_.AllToAll(in, rows, out, rows, stream_));
    return WallSeconds() - start;
  }
  absl::StatusOr<double> Reduce(int64_t bytes) {
    const int64_t floats = bytes / 4 / world_.size() * world_.size();
    const TensorView in(in_.data(), DType::kF32, {floats});
    const TensorView out(out_.data(), DType::kF32, {floats / world_.size()});
    const double start = WallSeconds();
    RETURN_IF_ERROR(world_.ReduceScatter(in, out, ReduceOp::kSum, stream_));
    return WallSeconds() - start;
  }

  absl::StatusOr<double> Gather(int64_t bytes) {
    const int64_t part = bytes / world_.size();
    const TensorView out(out_.data(), DType::kU8, {bytes});
    const double start = WallSeconds();
    RETURN_IF_ERROR(world_.AllGather(out.Rows(part * world_.rank(), part), out, stream_));
    return WallSeconds() - start;
  }

  // All ranks the same number of times; the lower quartile, then the mean of the ranks.
  absl::StatusOr<double> Seconds(const std::function<absl::StatusOr<double>()>& once) {
    std::vector<double> samples;
    for (int i = 0; i < kSamples; ++i) {
      RETURN_IF_ERROR(world_.Barrier());
      ASSIGN_OR_RETURN(const double seconds, once());
      samples.push_back(seconds);
    }
    std::sort(samples.begin(), samples.end());
    return MeanOverRanks(samples[kSamples / 4], world_, stream_);
  }

  static constexpr int kSamples = 20;
  Communicator& world_;
  kernels::Stream& stream_;
  std::string in_, out_;
};

// Each rank computes on its core, first alone, then beside a thread that waits as a rank does where
// ranks share cores; its questions, a microsecond in 100, are left out. Where there are fewer ranks
// than cores the thread would have one of its own.
absl::StatusOr<double> WaitingShare(Communicator& world, kernels::Stream& stream,
                                    const Calibration& c) {
  if (world.size() < 2 || world.size() * c.threads < c.cores) return 0;
  std::vector<double> shares;
  for (int i = 0; i < kPeakSamples; ++i) {
    RETURN_IF_ERROR(world.Barrier());
    ASSIGN_OR_RETURN(const double alone,
                     kernels::MeasurePeakRate(stream, DType::kF32, kPeakSeconds));
    RETURN_IF_ERROR(world.Barrier());
    std::atomic<bool> answered = false;
    std::thread waiter([&] {
      for (parallel::Patience patience; !answered; patience.Rest()) {
      }
    });
    const auto beside = kernels::MeasurePeakRate(stream, DType::kF32, kPeakSeconds);
    answered = true;
    waiter.join();
    RETURN_IF_ERROR(beside.status());
    shares.push_back(std::clamp(alone / *beside - 1, 0.0, 1.0));
  }
  std::sort(shares.begin(), shares.end());
  return shares[kPeakSamples / 2];
}

}  // namespace

// Shares are of the peak. On a busy machine an op may come out above the peak that was measured:
// then the op's rate is the peak, and no time is changed.
absl::StatusOr<Calibration> Calibrate(const trainer::ModelConfig& model, int64_t tokens,
                                      int64_t sequence_length, Communicator& world,
                                      kernels::DeviceContext& device) {
  Calibration c;
  c.model = model.model_type();
  c.tokens = tokens;
  c.ranks = world.size();
  c.cores = UsableCores();
  c.threads = device.num_threads();
  c.memory_bytes = static_cast<double>(ReadMemorySize().total_bytes) / c.ranks;
  kernels::Stream& stream = device.stream(StreamRole::kCompute);
  RETURN_IF_ERROR(world.Barrier());
  ASSIGN_OR_RETURN(c.fp32_peak, PeakRate(stream, DType::kF32));
  ASSIGN_OR_RETURN(c.bf16_peak, PeakRate(stream, DType::kBF16));
  OpTimer timer({model, tokens, sequence_length}, device);
  ASSIGN_OR_RETURN(c.copy_rate, timer.CopyRate());
  for (const auto& [dtype, share, factor, peak] :
       {std::tuple(DType::kF32, &c.fp32_products, &c.fp32_weight_factor, &c.fp32_peak),
        std::tuple(DType::kBF16, &c.bf16_products, &c.bf16_weight_factor, &c.bf16_peak)}) {
    RETURN_IF_ERROR(world.Barrier());
    ASSIGN_OR_RETURN(const ProductTimes times, timer.Products(dtype));
    const double rate = times.Rate(c.copy_rate);
    *peak = std::max(*peak, rate);
    *share = rate / *peak;
    *factor = times.WeightFactor(rate, c.copy_rate);
  }
  RETURN_IF_ERROR(world.Barrier());
  ASSIGN_OR_RETURN(const AttentionTimes attention, timer.Attention());
  const double forward = attention.flops / attention.forward_seconds;
  const double backward = 2.5 * attention.flops / attention.backward_seconds;
  const double peak = std::max({c.bf16_peak, forward, backward});
  c.bf16_products *= c.bf16_peak / peak;
  c.bf16_peak = peak;
  c.core_forward = forward / peak;
  c.core_backward = backward / peak;
  ASSIGN_OR_RETURN(const double element_rate, timer.ElementRate());
  c.element_share = element_rate / c.copy_rate;
  ASSIGN_OR_RETURN(c.op_seconds, timer.OpSeconds());
  ASSIGN_OR_RETURN(c.adam_rate, timer.AdamRate());
  ASSIGN_OR_RETURN(c.pack_rate, timer.PackRate());
  ASSIGN_OR_RETURN(c.clear_rate, timer.ClearRate());
  ASSIGN_OR_RETURN(c.waiting_share, WaitingShare(world, stream, c));
  for (double* value :
       {&c.fp32_peak, &c.bf16_peak, &c.fp32_products, &c.bf16_products, &c.fp32_weight_factor,
        &c.bf16_weight_factor, &c.core_forward, &c.core_backward, &c.copy_rate, &c.element_share,
        &c.op_seconds, &c.adam_rate, &c.pack_rate, &c.clear_rate, &c.waiting_share}) {
    ASSIGN_OR_RETURN(*value, MeanOverRanks(*value, world, stream));
  }
  RETURN_IF_ERROR(Links(world, device).Measure(c));
  return c;
}

std::string ClusterText(const Calibration& c, const std::string& name) {
  const auto share = [](double value) { return std::clamp(value, 1e-6, 1.0); };
  std::string text = absl::StrFormat(
      "# Written by sluice doctor --calibrate: %d ranks of %d threads on %d cores, at the same "
      "time;"
      "\n# shapes of %s, %d tokens a microbatch.\n",
      c.ranks, c.threads, c.cores, c.model, c.tokens);
  absl::StrAppendFormat(
      &text,
      "name: \"%s\"\nnodes: 1\nranks_per_node: %d\ncores_per_node: %d\n"
      "waiting_core_share: %.4f  # a rank that waits for a message, beside one that works\n",
      name, c.ranks, std::max(1, c.cores / c.threads), c.waiting_share);
  absl::StrAppendFormat(
      &text,
      "device {\n  name: \"%d CPU threads\"\n"
      "  peak_bf16_flops: %.5g  # multiply-adds on registers only\n  peak_fp32_flops: %.5g\n"
      "  product_efficiency: %.4f  # the products of a forward, memory traffic counted apart\n"
      "  fp32_product_efficiency: %.4f\n"
      "  weight_gradient_factor: %.4f  # times of their weight gradients over theirs\n"
      "  fp32_weight_gradient_factor: %.4f\n"
      "  core_forward_efficiency: %.4f  # attention proper\n  core_backward_efficiency: %.4f\n",
      c.threads, c.bf16_peak, c.fp32_peak, share(c.bf16_products), share(c.fp32_products),
      c.bf16_weight_factor, c.fp32_weight_factor, share(c.core_forward), share(c.core_backward));
  absl::StrAppendFormat(
      &text,
      "  memory_bytes_per_second: %.5g  # a copy that misses caches, read and written\n"
      "  memory_efficiency: %.4f  # norms, rotation, SwiGLU, gate, rows in order, cross-entropy\n"
      "  op_seconds: %.3g\n"
      "  optimizer_parameters_per_second: %.5g  # AdamW, FP32 moments; the gradient's norm\n"
      "  packed_parameters_per_second: %.5g  # weights into both layouts of products\n"
      "  cleared_parameters_per_second: %.5g  # FP32 gradients set to zero\n"
      "  weight_copies: 2  # packed for forward and for backward\n"
      "  memory_bytes: %.5g\n  reserved_bytes: 0\n}\n",
      c.copy_rate, c.element_share, c.op_seconds, c.adam_rate, c.pack_rate, c.clear_rate,
      c.memory_bytes);
  if (c.ranks < 2) return text;
  absl::StrAppendFormat(
      &text,
      "inside {  # of all ranks at once\n  bytes_per_second: %.5g  # all-to-all\n"
      "  latency_seconds: %.3g\n  reduction_bytes_per_second: %.5g\n"
      "  gather_bytes_per_second: %.5g\n  message_bytes_per_second: %.5g  # of two ranks\n"
      "  message_latency_seconds: %.3g\n}\n",
      c.exchange_rate, c.exchange_latency, c.reduce_rate, c.gather_rate, c.message_rate,
      c.message_latency);
  return text;
}

}  // namespace sluice::launch
