// For ops that are written for the host alone, on a stream of any device. Reports are made with
// them: they may wait.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "kernels/core/cpu_stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// The operands of one op.
class HostOperands {
 public:
  explicit HostOperands(Stream& stream) : stream_(stream) {}
  HostOperands(const HostOperands&) = delete;
  HostOperands& operator=(const HostOperands&) = delete;

  // The operand itself where it is the host's, or null. Else a contiguous copy, to be read as long
  // as this lives; waits for the stream.
  template <typename View>
  View Of(const View& view) {
    if (IsOnHost() || view.is_null()) return view;
    return View(Copy(view), view.dtype(), view.shape());
  }

  // Enqueues work() on the CPU's stream. Elsewhere calls it, unless the stream has failed: its
  // Synchronize says why.
  template <typename Work>
  void Run(const Work& work) {
    if (IsOnHost()) {
      CpuStream::From(stream_).Run([work](ThreadPool& /*pool*/) { work(); });
    } else if (status_.ok()) {
      work();
    }
  }

 private:
  bool IsOnHost() const { return stream_.device().type == DeviceType::kCpu; }
  void* Copy(const ConstTensorView& view);

  Stream& stream_;
  absl::Status status_;
  std::vector<std::vector<char>> copies_;
};

}  // namespace sluice::kernels
