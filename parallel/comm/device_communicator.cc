#include "parallel/comm/device_communicator.h"

#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::parallel {
namespace {

// A tensor as the inner communicator reads it: itself, or a copy on the host that grows only.
class Staging {
 public:
  TensorView HostOf(const ConstTensorView& view) {
    CHECK(view.is_contiguous()) << "a message must be contiguous; shape " << view.shape();
    if (bytes_.size() < view.bytes()) bytes_.resize(view.bytes());
    return TensorView(bytes_.data(), view.dtype(), view.shape());
  }

 private:
  std::vector<char> bytes_;
};

class DeviceCommunicator : public Communicator {
 public:
  DeviceCommunicator(std::unique_ptr<Communicator> inner, kernels::DeviceContext& device)
      : inner_(std::move(inner)), device_(device) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  absl::Status AllReduce(TensorView data, ReduceOp op, Stream& stream) override {
    if (!IsOnDevice(data)) return inner_->AllReduce(data, op, stream);
    if (size() == 1) return absl::OkStatus();
    const TensorView host = ToHost(data, out_, stream);
    RETURN_IF_ERROR(inner_->AllReduce(host, op, stream));
    return ToDevice(host, data, stream);
  }

  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    if (!IsOnDevice(out)) return inner_->AllGather(in, out, stream);
    if (size() == 1) return CopyHere(in, out, stream);
    const TensorView from = ToHost(in, in_, stream), to = out_.HostOf(out);
    RETURN_IF_ERROR(inner_->AllGather(from, to, stream));
    return ToDevice(to, out, stream);
  }

  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op,
                             Stream& stream) override {
    if (!IsOnDevice(out)) return inner_->ReduceScatter(in, out, op, stream);
    if (size() == 1) return CopyHere(in, out, stream);
    const TensorView from = ToHost(in, in_, stream), to = out_.HostOf(out);
    RETURN_IF_ERROR(inner_->ReduceScatter(from, to, op, stream));
    return ToDevice(to, out, stream);
  }

  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows, TensorView out,
                        std::span<const int64_t> receive_rows, Stream& stream) override {
    if (!IsOnDevice(out)) return inner_->AllToAll(in, send_rows, out, receive_rows, stream);
    if (size() == 1) return CopyHere(in, out, stream);
    const TensorView from = ToHost(in, in_, stream), to = out_.HostOf(out);
    RETURN_IF_ERROR(inner_->AllToAll(from, send_rows, to, receive_rows, stream));
    return ToDevice(to, out, stream);
  }

  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    if (!IsOnDevice(data)) return inner_->Broadcast(data, root, stream);
    const TensorView host = rank() == root ? ToHost(data, out_, stream) : out_.HostOf(data);
    RETURN_IF_ERROR(inner_->Broadcast(host, root, stream));
    return rank() == root ? absl::OkStatus() : ToDevice(host, data, stream);
  }

  absl::Status Connect(std::span<const std::pair<int, int>> pairs) override {
    return inner_->Connect(pairs);
  }
  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    if (!IsOnDevice(data)) return inner_->Send(data, peer, tag, stream);
    return inner_->Send(ToHost(data, in_, stream), peer, tag, stream);
  }
  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    if (!IsOnDevice(data)) return inner_->Receive(data, peer, tag, stream);
    const TensorView host = out_.HostOf(data);
    RETURN_IF_ERROR(inner_->Receive(host, peer, tag, stream));
    return ToDevice(host, data, stream);
  }

  absl::Status Barrier() override { return inner_->Barrier(); }
  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    return inner_->GatherBytes(bytes);
  }
  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    return inner_->BroadcastBytes(bytes, root);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, inner_->Split(color, key));
    return CreateDeviceCommunicator(std::move(part), device_);
  }
  void Abort(const absl::Status& why) override { inner_->Abort(why); }

 private:
  static bool IsOnDevice(const ConstTensorView& view) {
    return !(view.device() == kernels::DeviceId{});
  }

  // Enqueued; the inner communicator waits for the stream before it reads.
  TensorView ToHost(const ConstTensorView& data, Staging& staging, Stream& stream) {
    const TensorView host = staging.HostOf(data);
    device_.Copy(data, host, stream);
    return host;
  }
  // Complete when it returns: the staging is used again by the next call, on any stream.
  absl::Status ToDevice(const TensorView& host, const TensorView& data, Stream& stream) {
    device_.Copy(host, data, stream);
    return stream.Synchronize();
  }
  absl::Status CopyHere(const ConstTensorView& in, const TensorView& out, Stream& stream) {
    CHECK(in.is_contiguous() && out.is_contiguous()) << in.shape() << " to " << out.shape();
    if (in.raw_data() != out.raw_data()) {
      const kernels::Shape flat = {in.num_elements()};
      device_.Copy(in.Reshape(flat), out.Reshape(flat), stream);
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<Communicator> inner_;
  kernels::DeviceContext& device_;
  Staging in_, out_;
};

}  // namespace

std::unique_ptr<Communicator> CreateDeviceCommunicator(std::unique_ptr<Communicator> inner,
                                                       kernels::DeviceContext& device) {
  if (device.id() == kernels::DeviceId{}) return inner;
  return std::make_unique<DeviceCommunicator>(std::move(inner), device);
}

}  // namespace sluice::parallel
