#include "tests/cuda_double/nccl/nccl_comm.h"

#include <set>
#include <utility>

namespace sluice::cuda_double {
namespace {

// A call on its way through the stream.
class Running {
 public:
  Running(Runtime& runtime, Call call)
      : runtime_(runtime), call_(std::move(call)), place_(call_.comm->num_enqueued++) {}

  std::string Name() const {
    std::string sends, receives;
    for (const Transfer& transfer : call_.transfers) {
      std::string& list = transfer.sends ? sends : receives;
      list += (list.empty() ? "" : ",") + std::to_string(transfer.peer);
    }
    return "NCCL's rank " + std::to_string(call_.comm->rank) + " of " +
           std::to_string(call_.comm->group->num_ranks()) + " (sends to " +
           (sends.empty() ? "none" : sends) + "; receives from " +
           (receives.empty() ? "none" : receives) + ")";
  }

  // True once it is done or has gone wrong.
  bool Advance(OpId op) {
    CommState& comm = *call_.comm;
    if (comm.is_aborted || !error_.empty()) return true;
    if (comm.num_done < place_) return false;
    if (!has_started_) {
      has_started_ = true;
      error_ = TouchMemory(op);
      if (!error_.empty()) return true;
    }
    // A later message to or from a peer waits for the earlier one.
    std::set<std::pair<bool, int>> busy;
    bool all_done = true;
    for (size_t i = 0; i < call_.transfers.size(); ++i) {
      Transfer& transfer = call_.transfers[i];
      if (is_done_[i]) continue;
      all_done = false;
      if (!busy.insert({transfer.sends, transfer.peer}).second) continue;
      Channel& channel = transfer.sends ? comm.group->ChannelOf(comm.rank, transfer.peer)
                                        : comm.group->ChannelOf(transfer.peer, comm.rank);
      bool is_done = false;
      error_ = cuda_double::Advance(transfer, channel, &is_done);
      if (!error_.empty()) return true;
      is_done_[i] = is_done;
      if (is_done) busy.erase({transfer.sends, transfer.peer});
    }
    return all_done;
  }

  std::string Finish() {
    ++call_.comm->num_done;
    if (error_.empty()) return "";
    call_.comm->group->Fail(call_.comm->rank);
    call_.comm->last_error = error_;
    return Name() + ": " + error_;
  }

 private:
  // Bounds, memory never written, and races with what no stream orders.
  std::string TouchMemory(OpId op) {
    is_done_.assign(call_.transfers.size(), false);
    const Accessor who{.op = op, .block = 1};
    for (const Transfer& transfer : call_.transfers) {
      const AccessKind kind = transfer.sends ? AccessKind::kRead : AccessKind::kWrite;
      const std::string why = runtime_.memory().Touch(reinterpret_cast<uint64_t>(transfer.data),
                                                      transfer.bytes, kind, who);
      if (!why.empty()) return why;
    }
    return "";
  }

  Runtime& runtime_;
  Call call_;
  const uint64_t place_;  // among the communicator's calls
  bool has_started_ = false;
  std::vector<bool> is_done_;
  std::string error_;
};

}  // namespace

cudaError_t Enqueue(Runtime& runtime, Call call) {
  StreamState& stream = *runtime.Stream(call.stream);
  const auto running = std::make_shared<Running>(runtime, std::move(call));
  return runtime.EnqueueMessage(stream,
                                {.name = running->Name(),
                                 .advance = [running](OpId op) { return running->Advance(op); },
                                 .finish = [running] { return running->Finish(); }});
}

}  // namespace sluice::cuda_double
