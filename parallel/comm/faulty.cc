#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/decorators.h"

namespace sluice::parallel {
namespace {

// Shared by a group and its splits, which may be used from several threads.
struct FaultState {
  explicit FaultState(const Faults& wanted) : faults(wanted) {}
  const Faults faults;
  std::atomic<int64_t> num_calls{0};
};

class FaultyCommunicator : public Communicator {
 public:
  FaultyCommunicator(std::unique_ptr<Communicator> inner, std::shared_ptr<FaultState> state)
      : inner_(std::move(inner)), state_(std::move(state)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  absl::Status AllReduce(TensorView data, ReduceOp op, Stream& stream) override {
    RETURN_IF_ERROR(Count());
    return inner_->AllReduce(data, op, stream);
  }
  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    RETURN_IF_ERROR(Count());
    return inner_->AllGather(in, out, stream);
  }
  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op,
                             Stream& stream) override {
    RETURN_IF_ERROR(Count());
    return inner_->ReduceScatter(in, out, op, stream);
  }
  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows, TensorView out,
                        std::span<const int64_t> receive_rows, Stream& stream) override {
    RETURN_IF_ERROR(Count());
    return inner_->AllToAll(in, send_rows, out, receive_rows, stream);
  }
  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    RETURN_IF_ERROR(Count());
    return inner_->Broadcast(data, root, stream);
  }
  absl::Status Connect(std::span<const std::pair<int, int>> pairs) override {
    RETURN_IF_ERROR(Count());
    return inner_->Connect(pairs);
  }
  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    RETURN_IF_ERROR(Count());
    return inner_->Send(data, peer, tag, stream);
  }
  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    RETURN_IF_ERROR(Count());
    return inner_->Receive(data, peer, tag, stream);
  }
  absl::Status Barrier() override {
    RETURN_IF_ERROR(Count());
    return inner_->Barrier();
  }
  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    RETURN_IF_ERROR(Count());
    return inner_->GatherBytes(bytes);
  }
  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    RETURN_IF_ERROR(Count());
    return inner_->BroadcastBytes(bytes, root);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    RETURN_IF_ERROR(Count());
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, inner_->Split(color, key));
    return std::make_unique<FaultyCommunicator>(std::move(part), state_);
  }
  void Abort(const absl::Status& why) override { inner_->Abort(why); }

 private:
  absl::Status Count() {
    const Faults& faults = state_->faults;
    const int64_t call = state_->num_calls++;
    if (call == faults.delay_at) std::this_thread::sleep_for(faults.delay);
    if (call == faults.fail_at) {
      return absl::InternalError(absl::StrCat("call ", call, " fails as planned"));
    }
    if (faults.die_at < 0 || call < faults.die_at) return absl::OkStatus();
    const absl::Status dead =
        absl::UnavailableError(absl::StrCat("rank ", rank(), " died at call ", faults.die_at));
    if (call == faults.die_at) inner_->Abort(dead);
    return dead;
  }

  const std::unique_ptr<Communicator> inner_;
  const std::shared_ptr<FaultState> state_;
};

}  // namespace

std::unique_ptr<Communicator> CreateFaultyCommunicator(std::unique_ptr<Communicator> inner,
                                                       const Faults& faults) {
  return std::make_unique<FaultyCommunicator>(std::move(inner),
                                              std::make_shared<FaultState>(faults));
}

}  // namespace sluice::parallel
