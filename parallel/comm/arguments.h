// What every communicator checks of its arguments, and the reduction they share. For communicators
// only.
#pragma once

#include <span>

#include "parallel/comm/communicator.h"

namespace sluice::parallel {

// `device`: where all tensors of the call must lie.
using kernels::DeviceId;
void CheckAllReduce(const ConstTensorView& data, DeviceId device = {});
void CheckAllGather(const ConstTensorView& in, const ConstTensorView& out, int num_ranks,
                    DeviceId device = {});
void CheckReduceScatter(const ConstTensorView& in, const ConstTensorView& out, int num_ranks,
                        DeviceId device = {});
void CheckAllToAll(const ConstTensorView& in, std::span<const int64_t> send_rows,
                   const ConstTensorView& out, std::span<const int64_t> receive_rows, int num_ranks,
                   DeviceId device = {});
void CheckContiguous(const ConstTensorView& data, DeviceId device = {});
void CheckPeer(int peer, int num_ranks);

// Waits for the stream's earlier work; CHECKs that it is a stream of the CPU.
absl::Status FinishEarlierWork(Stream& stream);

// Copies unless `from` is `to` itself or there is nothing to copy.
void CopyBytes(const void* from, void* to, int64_t bytes);

// out[i] = op over the sources in their order, n elements of type f32 | f64 | i32 | i64. `out` may
// be one of the sources. kMax and kMin of a NaN and anything are NaN.
void ReduceInOrder(std::span<const void* const> sources, void* out, int64_t n, kernels::DType dtype,
                   ReduceOp op);

}  // namespace sluice::parallel
