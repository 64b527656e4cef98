// Tests of ops run on every device and instruction set of this machine:
//   class RmsNormTest : public EveryDevice {};
//   INSTANTIATE_ON_EVERY_DEVICE(RmsNormTest);
//   TEST_P(RmsNormTest, ...) { RmsNorm(stream(), args); Wait(); ... }
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/cpu/target.h"
#include "tests/support/tensor.h"

namespace sluice::testing {

struct DeviceCase {
  std::string name;  // "cpu_avx512_threaded_2"
  kernels::cpu::Target target = kernels::cpu::Target::kScalar;
  kernels::CpuStreamMode mode = kernels::CpuStreamMode::kInline;
  int num_threads = 1;
  // Other devices than the CPU: how to make one, and where its tensors lie.
  std::function<absl::StatusOr<std::unique_ptr<kernels::DeviceContext>>()> create;
  TensorMemory memory;
  // The most work that a case may do here; 0: any. In elementary operations, as cases declare it.
  double work_limit = 0;
};

// What this test binary runs the ops on; each binary that links these tests defines it.
std::vector<DeviceCase> AllDevices();

void PrintTo(const DeviceCase& device, std::ostream* out);

class EveryDevice : public ::testing::TestWithParam<DeviceCase> {
 protected:
  void SetUp() override;
  void TearDown() override;
  kernels::Stream& stream() { return device_->stream(kernels::StreamRole::kCompute); }
  void Wait() {
    const absl::Status status = stream().Synchronize();
    ASSERT_TRUE(status.ok()) << status;
  }
  // For a case of this many elementary operations (multiply-adds, or elements times passes): true
  // if that is more than this device does in a test. The case is then counted as left out, and
  // printed.
  bool IsTooMuchHere(double work);

 private:
  std::unique_ptr<kernels::DeviceContext> device_;
};

}  // namespace sluice::testing

#define INSTANTIATE_ON_EVERY_DEVICE(suite)                                                        \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, ::testing::ValuesIn(::sluice::testing::AllDevices()),  \
                           [](const ::testing::TestParamInfo<::sluice::testing::DeviceCase>& i) { \
                             return i.param.name;                                                 \
                           })
