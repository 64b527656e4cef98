#include <cstdio>
#include <deque>
#include <map>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/arguments.h"

namespace sluice::parallel {
namespace {

class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  absl::Status AllReduce(TensorView data, ReduceOp /*op*/, Stream& stream) override {
    CheckAllReduce(data);
    return FinishEarlierWork(stream);
  }

  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    CheckAllGather(in, out, 1);
    return Copy(in, out, stream);
  }

  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp /*op*/,
                             Stream& stream) override {
    CheckReduceScatter(in, out, 1);
    return Copy(in, out, stream);
  }

  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows, TensorView out,
                        std::span<const int64_t> receive_rows, Stream& stream) override {
    CheckAllToAll(in, send_rows, out, receive_rows, 1);
    CHECK_EQ(send_rows[0], receive_rows[0]);
    return Copy(in, out, stream);
  }

  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(root, 1);
    return FinishEarlierWork(stream);
  }

  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(peer, 1);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    sent_[tag].emplace_back(static_cast<const char*>(data.raw_data()), data.bytes());
    return absl::OkStatus();
  }

  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(peer, 1);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    std::deque<std::string>& queue = sent_[tag];
    CHECK(!queue.empty()) << "receives tag " << tag << " from itself before sending: a deadlock";
    CHECK_EQ(queue.front().size(), data.bytes());
    CopyBytes(queue.front().data(), data.raw_mutable_data(), data.bytes());
    queue.pop_front();
    return absl::OkStatus();
  }

  absl::Status Barrier() override { return absl::OkStatus(); }

  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    return std::vector<std::string>{bytes};
  }

  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    CheckPeer(root, 1);
    return bytes;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int /*color*/, int /*key*/) override {
    return CreateSelfCommunicator();
  }

  void Abort(const absl::Status& why) override {
    std::fprintf(stderr, "%s\n", why.ToString().c_str());
  }

 private:
  static absl::Status Copy(const ConstTensorView& in, const TensorView& out, Stream& stream) {
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    CopyBytes(in.raw_data(), out.raw_mutable_data(), in.bytes());
    return absl::OkStatus();
  }

  std::map<int, std::deque<std::string>> sent_;  // by tag
};

}  // namespace

std::unique_ptr<Communicator> CreateSelfCommunicator() {
  return std::make_unique<SelfCommunicator>();
}

}  // namespace sluice::parallel
