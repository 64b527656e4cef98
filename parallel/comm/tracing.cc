#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/decorators.h"

namespace sluice::parallel {
namespace {

std::string Describe(const ConstTensorView& view) {
  return absl::StrCat(NameOf(view.dtype()), " ", view.shape().ToString());
}

std::string Describe(std::span<const int64_t> rows) { return absl::StrJoin(rows, "+"); }

absl::string_view NameOf(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return "sum";
    case ReduceOp::kMax:
      return "max";
    case ReduceOp::kMin:
      return "min";
  }
  return "?";
}

class TracingCommunicator : public Communicator {
 public:
  TracingCommunicator(std::unique_ptr<Communicator> inner, std::string name, CallLog& log)
      : inner_(std::move(inner)), name_(std::move(name)), log_(log) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  absl::Status AllReduce(TensorView data, ReduceOp op, Stream& stream) override {
    Log("all_reduce ", NameOf(op), " ", Describe(data));
    return inner_->AllReduce(data, op, stream);
  }
  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    Log("all_gather ", Describe(in), " -> ", out.shape().ToString());
    return inner_->AllGather(in, out, stream);
  }
  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op,
                             Stream& stream) override {
    Log("reduce_scatter ", NameOf(op), " ", Describe(in), " -> ", out.shape().ToString());
    return inner_->ReduceScatter(in, out, op, stream);
  }
  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows, TensorView out,
                        std::span<const int64_t> receive_rows, Stream& stream) override {
    Log("all_to_all ", Describe(in), " ", Describe(send_rows), " -> ", out.shape().ToString(), " ",
        Describe(receive_rows));
    return inner_->AllToAll(in, send_rows, out, receive_rows, stream);
  }
  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    Log("broadcast ", Describe(data), " from ", root);
    return inner_->Broadcast(data, root, stream);
  }
  absl::Status Connect(std::span<const std::pair<int, int>> pairs) override {
    return inner_->Connect(pairs);  // moves nothing
  }
  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    Log("send ", Describe(data), " to ", peer, " tag ", tag);
    return inner_->Send(data, peer, tag, stream);
  }
  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    Log("receive ", Describe(data), " from ", peer, " tag ", tag);
    return inner_->Receive(data, peer, tag, stream);
  }
  absl::Status Barrier() override {
    Log("barrier");
    return inner_->Barrier();
  }
  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    Log("gather_bytes ", bytes.size());
    return inner_->GatherBytes(bytes);
  }
  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    Log("broadcast_bytes ", bytes.size(), " from ", root);
    return inner_->BroadcastBytes(bytes, root);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    Log("split color ", color, " key ", key);
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, inner_->Split(color, key));
    const std::string part_name =
        absl::StrCat(name_.empty() ? "g" : absl::StrCat(name_, "."), num_splits_++);
    return std::make_unique<TracingCommunicator>(std::move(part), part_name, log_);
  }
  void Abort(const absl::Status& why) override {
    Log("abort ", why.ToString());
    inner_->Abort(why);
  }

 private:
  template <typename... Parts>
  void Log(const Parts&... parts) {
    log_.Add(absl::StrCat(name_, name_.empty() ? "" : " ", parts...));
  }

  const std::unique_ptr<Communicator> inner_;
  const std::string name_;  // "" for the group that was decorated
  CallLog& log_;
  int num_splits_ = 0;
};

}  // namespace

void CallLog::Add(std::string line) {
  std::lock_guard<std::mutex> lock(mutex_);
  lines_.push_back(std::move(line));
}

std::vector<std::string> CallLog::lines() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return lines_;
}

std::unique_ptr<Communicator> CreateTracingCommunicator(std::unique_ptr<Communicator> inner,
                                                        CallLog& log) {
  return std::make_unique<TracingCommunicator>(std::move(inner), "", log);
}

}  // namespace sluice::parallel
