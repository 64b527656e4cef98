#include "parallel/shard/sharded_adamw.h"

#include <algorithm>

#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/cast.h"

namespace sluice::parallel {
namespace {

using kernels::DType;
using kernels::MemoryTag;

constexpr int64_t kSumSquaresBlock = 4096;  // elements per element of SumSquares' scratch

bool SameSettings(const FlatSegment& a, const FlatSegment& b) {
  return a.decay == b.decay && a.counted_in_norm == b.counted_in_norm && a.trained == b.trained &&
         a.learning_rate_scale == b.learning_rate_scale && a.weight_decay == b.weight_decay;
}

// The parts of segments that lie in [begin, end), relative to begin; neighbours of equal settings
// are joined.
std::vector<FlatSegment> RunsIn(std::span<const FlatSegment> segments, int64_t begin, int64_t end) {
  std::vector<FlatSegment> runs;
  for (const FlatSegment& segment : segments) {
    FlatSegment run = segment;
    run.begin = std::max(segment.begin, begin) - begin;
    run.end = std::min(segment.end, end) - begin;
    if (run.begin >= run.end) continue;
    if (!runs.empty() && runs.back().end == run.begin && SameSettings(runs.back(), run)) {
      runs.back().end = run.end;
    } else {
      runs.push_back(run);
    }
  }
  return runs;
}

void CheckArguments(const ConstTensorView& values, const ConstTensorView& gradients,
                    std::span<const FlatSegment> segments, DType moment_dtype, int num_ranks) {
  const int64_t n = values.num_elements();
  CHECK_EQ(values.shape().rank(), 1);
  CHECK_EQ(values.shape(), gradients.shape());
  CHECK(values.is_contiguous() && gradients.is_contiguous());
  CHECK(values.dtype() == DType::kF32 || values.dtype() == DType::kBF16)
      << "values of " << NameOf(values.dtype()).data();
  CHECK(gradients.dtype() == DType::kF32) << "gradients of " << NameOf(gradients.dtype()).data();
  CHECK(moment_dtype == DType::kF32 || moment_dtype == DType::kBF16)
      << "moments of " << NameOf(moment_dtype).data();
  CHECK_EQ(n % num_ranks, 0) << "flat arrays are padded to a multiple of " << num_ranks;
  int64_t last = 0;
  for (const FlatSegment& segment : segments) {
    CHECK_LE(last, segment.begin) << "segments ascend";
    CHECK_LE(segment.begin, segment.end);
    CHECK_LE(segment.end, n);
    last = segment.end;
  }
}

class ShardedAdamWImpl : public ShardedAdamW {
 public:
  ShardedAdamWImpl(kernels::DeviceContext& device, Communicator& group, TensorView values,
                   TensorView gradients, std::span<const FlatSegment> segments, float average_decay)
      : device_(device),
        group_(group),
        values_(values),
        gradients_(gradients),
        shard_size_(values.num_elements() / group.size()),
        shard_begin_(shard_size_ * group.rank()),
        runs_(RunsIn(segments, shard_begin_, shard_begin_ + shard_size_)),
        average_decay_(average_decay) {}

  absl::Status Allocate(DType moment_dtype) {
    const auto bytes = [&](DType dtype) {
      return static_cast<size_t>(std::max<int64_t>(shard_size_, 1)) * SizeOf(dtype);
    };
    for (kernels::Buffer* moment : {&first_buffer_, &second_buffer_}) {
      ASSIGN_OR_RETURN(*moment, device_.Allocate(bytes(moment_dtype), MemoryTag::kOptimizer));
    }
    first_ = first_buffer_.View(moment_dtype, {shard_size_});
    second_ = second_buffer_.View(moment_dtype, {shard_size_});

    if (average_decay_ > 0) {
      if (device_.id().type != kernels::DeviceType::kCpu) {
        return absl::UnimplementedError("an average of the weights is kept on the CPU device only");
      }
      ASSIGN_OR_RETURN(average_buffer_,
                       device_.Allocate(bytes(DType::kF32), MemoryTag::kOptimizer));
      average_ = average_buffer_.View(DType::kF32, {shard_size_});
    }

    int64_t longest = 0;
    for (const FlatSegment& run : runs_) longest = std::max(longest, run.end - run.begin);
    const int64_t blocks = (longest + kSumSquaresBlock - 1) / kSumSquaresBlock;
    ASSIGN_OR_RETURN(sums_buffer_,
                     device_.Allocate(static_cast<size_t>(blocks + 1) * SizeOf(DType::kF64),
                                      MemoryTag::kOptimizer));
    sums_ = sums_buffer_.View(DType::kF64, {blocks + 1});

    master_ = MyPart(values_);
    if (values_.dtype() == DType::kF32) return absl::OkStatus();
    ASSIGN_OR_RETURN(master_buffer_, device_.Allocate(bytes(DType::kF32), MemoryTag::kOptimizer));
    master_ = master_buffer_.View(DType::kF32, {shard_size_});
    Stream& stream = device_.stream(kernels::StreamRole::kCompute);
    kernels::Cast(stream, {.from = MyPart(values_), .to = master_});
    return stream.Synchronize();
  }

  int64_t shard_begin() const override { return shard_begin_; }
  int64_t shard_end() const override { return shard_begin_ + shard_size_; }
  TensorView master() override { return master_; }
  TensorView first_moment() override { return first_; }
  TensorView second_moment() override { return second_; }
  ConstTensorView gradient() const override { return MyPart(gradients_); }
  TensorView average() override { return average_; }

  absl::Status ResetAverage(Stream& stream) override {
    if (average_.is_null()) return absl::OkStatus();
    RETURN_IF_ERROR(stream.Synchronize());
    std::copy_n(master_.data<float>(), shard_size_, average_.mutable_data<float>());
    return absl::OkStatus();
  }

  absl::Status ReduceGradients(Stream& stream) override {
    return group_.ReduceScatter(gradients_, MyPart(gradients_), ReduceOp::kSum, stream);
  }

  absl::Status SumSquares(Stream& stream, double* sum) override {
    const TensorView total = sums_.Rows(0, 1);
    bool accumulate = false;
    for (const FlatSegment& run : runs_) {
      if (!run.counted_in_norm) continue;
      const int64_t n = run.end - run.begin;
      const int64_t blocks = (n + kSumSquaresBlock - 1) / kSumSquaresBlock;
      kernels::SumSquares(stream, {.x = gradient().Rows(run.begin, n),
                                   .sum = total,
                                   .accumulate = accumulate,
                                   .scratch = sums_.Rows(1, blocks)});
      accumulate = true;
    }
    *sum = 0;
    if (accumulate) device_.Copy(total, TensorView(sum, DType::kF64, {1}), stream);
    return stream.Synchronize();
  }

  absl::Status Step(const AdamWHyperparameters& hyperparameters, Stream& stream) override {
    for (const FlatSegment& run : runs_) {
      if (!run.trained) continue;
      const int64_t n = run.end - run.begin;
      const float decay = run.weight_decay < 0 ? hyperparameters.weight_decay : run.weight_decay;
      kernels::AdamW(stream,
                     {.master = master_.Rows(run.begin, n),
                      .gradient = gradient().Rows(run.begin, n),
                      .m = first_.Rows(run.begin, n),
                      .v = second_.Rows(run.begin, n),
                      .value = MyPart(values_).Rows(run.begin, n),
                      .gradient_scale = hyperparameters.gradient_scale,
                      .learning_rate = hyperparameters.learning_rate * run.learning_rate_scale,
                      .beta1 = hyperparameters.beta1,
                      .beta2 = hyperparameters.beta2,
                      .eps = hyperparameters.eps,
                      .weight_decay = run.decay ? decay : 0.0f,
                      .step = hyperparameters.step});
    }
    RETURN_IF_ERROR(UpdateAverage(stream));
    return GatherValues(stream);
  }

  absl::Status PublishMasters(Stream& stream) override {
    if (values_.dtype() != DType::kF32) {
      kernels::Cast(stream, {.from = master_, .to = MyPart(values_)});
    }
    return GatherValues(stream);
  }

 private:
  TensorView MyPart(const TensorView& whole) const { return whole.Rows(shard_begin_, shard_size_); }

  // Element by element, so the layout changes no bit. Some 12 bytes an element: nothing beside the
  // step, so one thread does.
  absl::Status UpdateAverage(Stream& stream) {
    if (average_.is_null()) return absl::OkStatus();
    RETURN_IF_ERROR(stream.Synchronize());
    const float* master = master_.data<float>();
    float* average = average_.mutable_data<float>();
    const float share = 1.0f - average_decay_;
    for (int64_t i = 0; i < shard_size_; ++i) average[i] += share * (master[i] - average[i]);
    return absl::OkStatus();
  }

  absl::Status GatherValues(Stream& stream) {
    return group_.AllGather(MyPart(values_), values_, stream);
  }

  kernels::DeviceContext& device_;
  Communicator& group_;
  const TensorView values_, gradients_;  // [n]
  const int64_t shard_size_, shard_begin_;
  const std::vector<FlatSegment> runs_;  // relative to shard_begin_
  const float average_decay_;
  kernels::Buffer master_buffer_, first_buffer_, second_buffer_, sums_buffer_, average_buffer_;
  TensorView master_, first_, second_, average_;  // [m]
  TensorView sums_;                               // [1 + blocks]: the sum, then SumSquares' scratch
};

}  // namespace

absl::StatusOr<std::unique_ptr<ShardedAdamW>> ShardedAdamW::Create(
    kernels::DeviceContext& device, Communicator& group, TensorView values, TensorView gradients,
    std::span<const FlatSegment> segments, const ShardedAdamWOptions& options) {
  CheckArguments(values, gradients, segments, options.moment_dtype, group.size());
  auto optimizer = std::make_unique<ShardedAdamWImpl>(device, group, values, gradients, segments,
                                                      options.average_decay);
  RETURN_IF_ERROR(optimizer->Allocate(options.moment_dtype));
  return optimizer;
}

}  // namespace sluice::parallel
