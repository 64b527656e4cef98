// Timing an op on a GPU, beside the floor: the slower of arithmetic and memory by NVIDIA's data
// sheet of the H100 SXM. Nothing passes or fails by time.
#pragma once

#include <functional>
#include <string>

#include "tests/support/every_device.h"
#include "tests/support/tensor.h"

namespace sluice::testing {

class SpeedTest : public EveryDevice {
 protected:
  // Runs `work` and prints its time; `flops` of 0: a kernel that only moves `bytes`.
  void Report(const std::string& name, double flops, double bytes, double peak_flops,
              const std::function<void()>& work);
};

// Numbers in [1, 2) with random fractions and signs, which cost what a GPU's clock makes of real
// ones; zeros would be faster. FP32: ones.
Tensor Numbers(const kernels::Shape& shape, kernels::DType dtype);

}  // namespace sluice::testing
