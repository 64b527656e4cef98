// Element-wise ops of low-rank adapters.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace sluice::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kRadix = int64_t{1} << 20;  // of SplitRowIds

// Multiplied, then added: two roundings, as on the CPU.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    scaled_add_kernel(Rows<const T> x, Rows<T> y, int64_t width, float scale, bool accumulate) {
  const int64_t row = blockIdx.x;
  for (int64_t c = threadIdx.x; c < width; c += kThreads) {
    const float scaled = ToFloat(x[row][c]) * scale;
    y[row][c] = FromFloat<T>(accumulate ? ToFloat(y[row][c]) + scaled : scaled);
  }
}

struct PhiloxWords {
  uint32_t word[4];
};

// kernels/core/philox.h in device code.
__device__ PhiloxWords PhiloxOnDevice(uint64_t key, uint64_t low, uint64_t high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(low), c1 = static_cast<uint32_t>(low >> 32),
           c2 = static_cast<uint32_t>(high), c3 = static_cast<uint32_t>(high >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

template <typename T>
struct DropoutParameters {
  Rows<const T> x;
  Rows<T> y;
  const int64_t* ids;
  int64_t width;
  float rate, keep;
  uint64_t key, row_stream;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) dropout_kernel(const DropoutParameters<T> p) {
  const int64_t row = blockIdx.x, groups = (p.width + 3) / 4;
  for (int64_t group = threadIdx.x; group < groups; group += kThreads) {
    const PhiloxWords random =
        PhiloxOnDevice(p.key, static_cast<uint64_t>(p.ids[row] * groups + group), p.row_stream);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t c = 4 * group + i;
      if (c >= p.width) continue;
      const bool dropped = static_cast<float>(random.word[i] >> 8) * 0x1p-24f < p.rate;
      p.y[row][c] = FromFloat<T>(dropped ? 0.0f : ToFloat(p.x[row][c]) * p.keep);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    row_ids_kernel(int64_t* ids, int64_t first, int64_t count) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t < count) ids[t] = first + t;
}

__global__ void __launch_bounds__(kThreads)
    split_row_ids_kernel(Rows<float> parts, int64_t first, int64_t count) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= count) return;
  parts[t][0] = static_cast<float>((first + t) / kRadix);
  parts[t][1] = static_cast<float>((first + t) % kRadix);
}

struct ExpertRowIdsParameters {
  Rows<const float> parts;
  const int32_t* offsets;
  int64_t* ids;
  int64_t count, local_experts, first_expert, num_experts;
};

__global__ void __launch_bounds__(kThreads) expert_row_ids_kernel(const ExpertRowIdsParameters p) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= p.count) return;
  int64_t expert = 0;
  while (expert + 1 < p.local_experts && p.offsets[expert + 1] <= t) ++expert;
  const int64_t token =
      static_cast<int64_t>(p.parts[t][0]) * kRadix + static_cast<int64_t>(p.parts[t][1]);
  p.ids[t] = token * p.num_experts + p.first_expert + expert;
}

LaunchShape ThreadEach(int64_t count) {
  return {.blocks = CeilDiv(count, kThreads), .threads = kThreads};
}

}  // namespace

void ScaledAdd(Stream& stream, const ScaledAddArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    Launch(stream, {.blocks = args.x.extent(0), .threads = kThreads}, scaled_add_kernel<T>,
           RowsOf<T>(args.x), MutableRowsOf<T>(args.y), args.x.extent(1), args.scale,
           args.accumulate);
  });
}

void Dropout(Stream& stream, const DropoutArgs& args) {
  ForFloatType(args.x.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const DropoutParameters<T> p = {.x = RowsOf<T>(args.x),
                                    .y = MutableRowsOf<T>(args.y),
                                    .ids = args.row_ids.data<int64_t>(),
                                    .width = args.x.extent(1),
                                    .rate = args.rate,
                                    .keep = 1.0f / (1.0f - args.rate),
                                    .key = args.key,
                                    .row_stream = args.row_stream};
    Launch(stream, {.blocks = args.x.extent(0), .threads = kThreads}, dropout_kernel<T>, p);
  });
}

void RowIds(Stream& stream, const RowIdsArgs& args) {
  const int64_t count = args.ids.extent(0);
  Launch(stream, ThreadEach(count), row_ids_kernel, args.ids.mutable_data<int64_t>(), args.first,
         count);
}

void SplitRowIds(Stream& stream, const SplitRowIdsArgs& args) {
  const int64_t count = args.parts.extent(0);
  Launch(stream, ThreadEach(count), split_row_ids_kernel, MutableRowsOf<float>(args.parts),
         args.first, count);
}

void ExpertRowIds(Stream& stream, const ExpertRowIdsArgs& args) {
  const ExpertRowIdsParameters p = {.parts = RowsOf<float>(args.parts),
                                    .offsets = args.offsets.data<int32_t>(),
                                    .ids = args.ids.mutable_data<int64_t>(),
                                    .count = args.ids.extent(0),
                                    .local_experts = args.offsets.extent(0) - 1,
                                    .first_expert = args.first_expert,
                                    .num_experts = args.num_experts};
  Launch(stream, ThreadEach(p.count), expert_row_ids_kernel, p);
}

}  // namespace sluice::kernels::cuda
