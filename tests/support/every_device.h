// Tests of ops run on every device and instruction set of this machine:
//   class RmsNormTest : public EveryDevice {};
//   INSTANTIATE_ON_EVERY_DEVICE(RmsNormTest);
//   TEST_P(RmsNormTest, ...) { RmsNorm(stream(), args); Wait(); ... }
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/cpu/target.h"

namespace sluice::testing {

struct DeviceCase {
  std::string name;  // "cpu_avx512_threaded_2"
  kernels::cpu::Target target = kernels::cpu::Target::kScalar;
  kernels::CpuStreamMode mode = kernels::CpuStreamMode::kInline;
  int num_threads = 1;
};

// Every instruction set inline on one thread; the fastest also on two threads and as a threaded
// stream.
std::vector<DeviceCase> AllDevices();

void PrintTo(const DeviceCase& device, std::ostream* out);

class EveryDevice : public ::testing::TestWithParam<DeviceCase> {
 protected:
  void SetUp() override;
  void TearDown() override;
  kernels::Stream& stream() { return device_->stream(kernels::StreamRole::kCompute); }
  void Wait() { ASSERT_TRUE(stream().Synchronize().ok()); }

 private:
  std::unique_ptr<kernels::DeviceContext> device_;
};

}  // namespace sluice::testing

#define INSTANTIATE_ON_EVERY_DEVICE(suite)                                                        \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, ::testing::ValuesIn(::sluice::testing::AllDevices()),  \
                           [](const ::testing::TestParamInfo<::sluice::testing::DeviceCase>& i) { \
                             return i.param.name;                                                 \
                           })
