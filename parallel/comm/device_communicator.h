// Messages of tensors that lie on a rank's device.
#pragma once

#include <memory>

#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"

namespace sluice::parallel {

// Takes tensors of `device` and of the CPU. Those of a GPU are copied to the host, moved by `inner`
// and copied back: right wherever `inner` is, and slow. A group of one copies on the device. On the
// CPU this is `inner` itself. `device` must outlive the result; so must it the groups split from
// it.
std::unique_ptr<Communicator> CreateDeviceCommunicator(std::unique_ptr<Communicator> inner,
                                                       kernels::DeviceContext& device);

}  // namespace sluice::parallel
