#include "parallel/comm/arguments.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/core/check.h"

namespace sluice::parallel {
namespace {

using kernels::DType;

template <typename T, typename Combine>
void ReduceTyped(std::span<const void* const> sources, T* out, int64_t n, const Combine& combine) {
  // Whole blocks have a constant trip count, which is what lets the compiler vectorise at -O2.
  constexpr int64_t kBlock = 256;
  T result[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = std::min(kBlock, n - begin);
    std::memcpy(result, static_cast<const T*>(sources[0]) + begin, count * sizeof(T));
    for (size_t p = 1; p < sources.size(); ++p) {
      const T* source = static_cast<const T*>(sources[p]) + begin;
      if (count == kBlock) {
        for (int64_t i = 0; i < kBlock; ++i) result[i] = combine(result[i], source[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) result[i] = combine(result[i], source[i]);
      }
    }
    std::memcpy(out + begin, result, count * sizeof(T));
  }
}

template <typename T>
void ReduceTyped(std::span<const void* const> sources, void* out, int64_t n, ReduceOp op) {
  T* typed = static_cast<T*>(out);
  switch (op) {
    case ReduceOp::kSum:
      return ReduceTyped(sources, typed, n, [](T a, T b) { return a + b; });
    case ReduceOp::kMax:  // b != b: a NaN
      return ReduceTyped(sources, typed, n, [](T a, T b) { return b > a || b != b ? b : a; });
    case ReduceOp::kMin:
      return ReduceTyped(sources, typed, n, [](T a, T b) { return b < a || b != b ? b : a; });
  }
}

int64_t RowsInAll(std::span<const int64_t> rows) {
  for (const int64_t count : rows) CHECK_GE(count, 0) << "rows of a peer";
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

}  // namespace

void CheckContiguous(const ConstTensorView& data, DeviceId device) {
  CHECK(data.is_contiguous()) << "a message must be contiguous; shape " << data.shape();
  CHECK(data.device() == device)
      << "a message lies on another device than this communicator moves (device_communicator.h)";
}

void CheckPeer(int peer, int num_ranks) {
  CHECK_GE(peer, 0) << "peer";
  CHECK_LT(peer, num_ranks) << "peer";
}

void CheckAllReduce(const ConstTensorView& data, DeviceId device) {
  CheckContiguous(data, device);
  CHECK(data.dtype() == DType::kF32 || data.dtype() == DType::kF64 || data.dtype() == DType::kI32 ||
        data.dtype() == DType::kI64)
      << "AllReduce of " << NameOf(data.dtype()).data();
}

void CheckAllGather(const ConstTensorView& in, const ConstTensorView& out, int num_ranks,
                    DeviceId device) {
  CheckContiguous(in, device);
  CheckContiguous(out, device);
  CHECK(in.dtype() == out.dtype())
      << "AllGather from " << NameOf(in.dtype()).data() << " to " << NameOf(out.dtype()).data();
  CHECK_EQ(in.num_elements() * num_ranks, out.num_elements());
}

void CheckReduceScatter(const ConstTensorView& in, const ConstTensorView& out, int num_ranks,
                        DeviceId device) {
  CheckAllGather(out, in, num_ranks, device);
  CHECK(in.dtype() == DType::kF32 || in.dtype() == DType::kF64 || in.dtype() == DType::kI64)
      << "ReduceScatter of " << NameOf(in.dtype()).data();
}

void CheckAllToAll(const ConstTensorView& in, std::span<const int64_t> send_rows,
                   const ConstTensorView& out, std::span<const int64_t> receive_rows, int num_ranks,
                   DeviceId device) {
  CheckContiguous(in, device);
  CheckContiguous(out, device);
  CHECK_EQ(in.shape().rank(), 2);
  CHECK_EQ(out.shape().rank(), 2);
  CHECK_EQ(in.extent(1), out.extent(1));
  CHECK(in.dtype() == out.dtype())
      << "AllToAll from " << NameOf(in.dtype()).data() << " to " << NameOf(out.dtype()).data();
  CHECK_EQ(static_cast<int>(send_rows.size()), num_ranks);
  CHECK_EQ(static_cast<int>(receive_rows.size()), num_ranks);
  CHECK_EQ(RowsInAll(send_rows), in.extent(0));
  CHECK_EQ(RowsInAll(receive_rows), out.extent(0));
}

absl::Status FinishEarlierWork(Stream& stream) { return stream.Synchronize(); }

void CopyBytes(const void* from, void* to, int64_t bytes) {
  if (from != to && bytes > 0) std::memcpy(to, from, bytes);
}

void ReduceInOrder(std::span<const void* const> sources, void* out, int64_t n, DType dtype,
                   ReduceOp op) {
  switch (dtype) {
    case DType::kF32:
      return ReduceTyped<float>(sources, out, n, op);
    case DType::kF64:
      return ReduceTyped<double>(sources, out, n, op);
    case DType::kI32:
      return ReduceTyped<int32_t>(sources, out, n, op);
    case DType::kI64:
      return ReduceTyped<int64_t>(sources, out, n, op);
    case DType::kBF16:
    case DType::kU8:
    case DType::kE4M3:
      CHECK(false) << "no reduction of " << NameOf(dtype).data();
  }
}

}  // namespace sluice::parallel
