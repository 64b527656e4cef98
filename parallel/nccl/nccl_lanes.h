// Point to point messages of one group by NCCL, which has neither tags nor sends that return before
// somebody receives.
//
// Each pair (from, to) has a lane: a communicator of two ranks that carries messages one way. The
// sender copies the message and sends it on a stream of the lane's own, so nothing of the rank
// waits for the receiver; the receiver receives on its caller's stream. Two ranks that send to each
// other at once cannot block each other, which on one communicator they would: NCCL runs its calls
// one after the other.
//
// Tag and length travel ahead through the host's communicator. They tell the receiver what comes
// next on the lane; a message of another tag than is asked for is taken off and kept. A Receive
// thus waits on the host until its sender has enqueued, though not until the bytes have come.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/core/cpu_stream.h"
#include "kernels/core/thread_pool.h"
#include "parallel/nccl/nccl_rank.h"

namespace sluice::parallel {

class NcclLanes {
 public:
  NcclLanes(NcclRank& rank, Communicator& host) : rank_(rank), host_(host) {}
  ~NcclLanes();

  // As Communicator's.
  absl::Status Connect(std::span<const std::pair<int, int>> pairs);
  absl::Status Send(const ConstTensorView& data, int peer, int tag, Stream& stream);
  absl::Status Receive(const TensorView& data, int peer, int tag, Stream& stream);

 private:
  // A message in memory of its own. In use until `done`, and while it is kept for a later Receive.
  struct Copy {
    kernels::Buffer bytes;
    kernels::cuda::CudaEvent filled, done;
    bool is_kept = false;
  };
  struct Lane {
    ncclComm_t comm = nullptr;
    std::unique_ptr<kernels::cuda::WatchedStream> stream;  // the sender's
  };
  struct Kept {
    int64_t tag = 0, bytes = 0;
    Copy* copy = nullptr;
  };

  absl::StatusOr<Copy*> FreeCopy(int64_t bytes);
  absl::StatusOr<Lane*> LaneOf(std::map<int, Lane>& lanes, int peer, const char* what);
  // Keeps the next message of the lane for a later Receive.
  absl::Status Keep(Lane& lane, int peer, const Kept& header, Stream& stream);
  absl::Status TakeKept(const TensorView& data, const Kept& kept, Stream& stream);

  NcclRank& rank_;
  Communicator& host_;
  kernels::ThreadPool pool_{1};
  kernels::CpuStream host_stream_{kernels::CpuStreamMode::kInline, pool_};
  std::map<int, Lane> to_, from_;              // by peer
  std::vector<std::unique_ptr<Copy>> copies_;  // grows until none is missing
  std::map<int, std::deque<Kept>> kept_;       // by peer, in the order they came
};

}  // namespace sluice::parallel
