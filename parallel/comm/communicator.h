// Messages between the ranks of one group.   P ranks in the group
//
// All calls of a group are made by all its ranks in the same order (Send and Receive: by the two
// concerned), from one thread a rank at a time. Work is enqueued on the stream; on the CPU the
// calling thread first waits for the stream's earlier work, then does the call itself, so it is
// complete when the call returns. Reductions go in ascending rank order in the tensor's dtype, so
// the bits do not depend on timing; a NaN is never lost. Status: UNAVAILABLE a peer is gone;
// DEADLINE_EXCEEDED; INTERNAL the library failed; INVALID_ARGUMENT never (CHECKed).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::parallel {

using kernels::ConstTensorView;
using kernels::Stream;
using kernels::TensorView;

enum class ReduceOp : uint8_t { kSum, kMax, kMin };

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // In place; f32 | f64 | i32 | i64, contiguous. Every rank gets the same bits.
  virtual absl::Status AllReduce(TensorView data, ReduceOp op, Stream& stream) = 0;
  // out [P * n] = in [n] of each rank in rank order; any dtype, contiguous. `in` may be its own
  // place inside `out`.
  virtual absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) = 0;
  // out [n] = sum over ranks of in [P * n], this rank's n-th part; f32 | f64 | i64. `out` may be
  // its own place inside `in`, whose other parts are then undefined.
  virtual absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op,
                                     Stream& stream) = 0;
  // Sends send_rows[p] consecutive rows of `in` to rank p, receives receive_rows[p] rows from each
  // into `out`, both in rank order. Rank 2, contiguous, equal dtype and width; zero rows are legal.
  virtual absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows,
                                TensorView out, std::span<const int64_t> receive_rows,
                                Stream& stream) = 0;
  virtual absl::Status Broadcast(TensorView data, int root, Stream& stream) = 0;

  // Point to point: names who sends to whom, before the first such message between tensors of a
  // GPU; NCCL makes a channel for each pair (from, to), where the other communicators need nothing.
  // A collective call with the same pairs on all ranks; pairs that are connected stay so.
  virtual absl::Status Connect(std::span<const std::pair<int, int>> /*pairs*/) {
    return absl::OkStatus();
  }
  // Matched in order per (peer, tag). Send copies and returns before the peer has
  // received, so that schedules cannot deadlock on buffering; Receive returns when the data has
  // arrived. Contiguous.
  virtual absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) = 0;
  virtual absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) = 0;

  // Host-side helpers. GatherBytes: every rank's bytes at rank 0 (empty elsewhere), any lengths.
  virtual absl::Status Barrier() = 0;
  virtual absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) = 0;
  virtual absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) = 0;

  // The ranks of equal colour, ordered by (key, rank). A collective call.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) = 0;
  // Tells all ranks of the job to end and frees those stuck in a call; prints why.
  virtual void Abort(const absl::Status& why) = 0;
};

// A group of one.
std::unique_ptr<Communicator> CreateSelfCommunicator();
// n ranks inside one process, one per thread: element i belongs to the thread that plays rank i.
// For tests, also under TSan.
std::vector<std::unique_ptr<Communicator>> CreateThreadCommunicators(int num_ranks);

}  // namespace sluice::parallel
