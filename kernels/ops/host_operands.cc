#include "kernels/ops/host_operands.h"

#include "kernels/cuda/copy_to_host.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void* HostOperands::Copy(const ConstTensorView& view) {
  copies_.emplace_back(static_cast<size_t>(view.num_elements()) * SizeOf(view.dtype()));
  if constexpr (kWithCuda) {
    status_.Update(cuda::CopyToHost(stream_, view, copies_.back().data()));
  }
  return copies_.back().data();
}

}  // namespace sluice::kernels
