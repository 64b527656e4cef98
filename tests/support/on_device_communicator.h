// The checks of communicators (communicator_checks.h) for tensors of a GPU: takes tensors of the
// host, copies them to the device, makes the call there, and copies results back.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/device.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/communicator.h"

namespace sluice::testing {

// A tensor of the host on the device for the length of a call. An empty one has memory too.
class OnDevice {
 public:
  OnDevice(kernels::DeviceContext& device, kernels::ConstTensorView host) : host_(host) {
    auto buffer = device.Allocate(host.bytes() + 1, kernels::MemoryTag::kScratch);
    CHECK(buffer.ok()) << buffer.status().ToString();
    buffer_ = *std::move(buffer);
    view_ = buffer_.View(host.dtype(), host.shape());
    device.Copy(host, view_, device.stream(kernels::StreamRole::kCompute));
  }
  const kernels::TensorView& view() const { return view_; }
  // The part of it that `part` is of the host's tensor; null if it is none.
  kernels::TensorView PartOf(const kernels::ConstTensorView& part) const {
    const auto begin = reinterpret_cast<uintptr_t>(host_.raw_data());
    const auto at = reinterpret_cast<uintptr_t>(part.raw_data());
    if (at < begin || at + part.bytes() > begin + host_.bytes()) return {};
    return buffer_.View(part.dtype(), part.shape(), at - begin);
  }

 private:
  kernels::ConstTensorView host_;
  kernels::Buffer buffer_;
  kernels::TensorView view_;
};

// All calls are made on the device's compute stream; the stream that is given is not used.
class OnDeviceCommunicator : public parallel::Communicator {
 public:
  OnDeviceCommunicator(std::unique_ptr<parallel::Communicator> inner,
                       kernels::DeviceContext& device)
      : inner_(std::move(inner)), device_(device) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  absl::Status AllReduce(kernels::TensorView data, parallel::ReduceOp op,
                         kernels::Stream& /*stream*/) override {
    const OnDevice here(device_, data);
    RETURN_IF_ERROR(inner_->AllReduce(here.view(), op, stream()));
    return Back(here.view(), data);
  }
  absl::Status AllGather(kernels::ConstTensorView in, kernels::TensorView out,
                         kernels::Stream& /*stream*/) override {
    const OnDevice from(device_, in), to(device_, out);
    const kernels::TensorView inside = to.PartOf(in);
    RETURN_IF_ERROR(
        inner_->AllGather(inside.is_null() ? from.view() : inside, to.view(), stream()));
    return Back(to.view(), out);
  }
  absl::Status ReduceScatter(kernels::ConstTensorView in, kernels::TensorView out,
                             parallel::ReduceOp op, kernels::Stream& /*stream*/) override {
    const OnDevice from(device_, in), to(device_, out);
    const kernels::TensorView inside = from.PartOf(out);
    const kernels::TensorView& sum = inside.is_null() ? to.view() : inside;
    RETURN_IF_ERROR(inner_->ReduceScatter(from.view(), sum, op, stream()));
    return Back(sum, out);
  }
  absl::Status AllToAll(kernels::ConstTensorView in, std::span<const int64_t> send_rows,
                        kernels::TensorView out, std::span<const int64_t> receive_rows,
                        kernels::Stream& /*stream*/) override {
    const OnDevice from(device_, in), to(device_, out);
    RETURN_IF_ERROR(inner_->AllToAll(from.view(), send_rows, to.view(), receive_rows, stream()));
    return Back(to.view(), out);
  }
  absl::Status Broadcast(kernels::TensorView data, int root, kernels::Stream& /*stream*/) override {
    const OnDevice here(device_, data);
    RETURN_IF_ERROR(inner_->Broadcast(here.view(), root, stream()));
    return Back(here.view(), data);
  }
  absl::Status Connect(std::span<const std::pair<int, int>> pairs) override {
    return inner_->Connect(pairs);
  }
  absl::Status Send(kernels::ConstTensorView data, int peer, int tag,
                    kernels::Stream& /*stream*/) override {
    const OnDevice here(device_, data);
    RETURN_IF_ERROR(inner_->Send(here.view(), peer, tag, stream()));
    return stream().Synchronize();  // before its memory goes
  }
  absl::Status Receive(kernels::TensorView data, int peer, int tag,
                       kernels::Stream& /*stream*/) override {
    const OnDevice here(device_, data);
    RETURN_IF_ERROR(inner_->Receive(here.view(), peer, tag, stream()));
    return Back(here.view(), data);
  }
  absl::Status Barrier() override { return inner_->Barrier(); }
  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    return inner_->GatherBytes(bytes);
  }
  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    return inner_->BroadcastBytes(bytes, root);
  }
  absl::StatusOr<std::unique_ptr<parallel::Communicator>> Split(int color, int key) override {
    ASSIGN_OR_RETURN(std::unique_ptr<parallel::Communicator> part, inner_->Split(color, key));
    return std::make_unique<OnDeviceCommunicator>(std::move(part), device_);
  }
  void Abort(const absl::Status& why) override { inner_->Abort(why); }

 private:
  kernels::Stream& stream() { return device_.stream(kernels::StreamRole::kCompute); }
  absl::Status Back(const kernels::ConstTensorView& from, const kernels::TensorView& to) {
    device_.Copy(from, to, stream());
    return stream().Synchronize();
  }

  const std::unique_ptr<parallel::Communicator> inner_;
  kernels::DeviceContext& device_;
};

}  // namespace sluice::testing
