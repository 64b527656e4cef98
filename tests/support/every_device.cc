#include "tests/support/every_device.h"

#include <ostream>

#include "kernels/core/cpu_device.h"

namespace sluice::testing {

using kernels::CpuStreamMode;
using kernels::cpu::Target;

std::vector<DeviceCase> AllDevices() {
  std::vector<DeviceCase> devices;
  const auto add = [&](Target target, CpuStreamMode mode, int num_threads) {
    std::string name = "cpu_" + std::string(NameOf(target));
    if (mode == CpuStreamMode::kThreaded) name += "_threaded";
    if (num_threads > 1) name += "_" + std::to_string(num_threads);
    devices.push_back({name, target, mode, num_threads});
  };
  const std::vector<Target> targets = kernels::cpu::AvailableTargets();
  for (Target target : targets) add(target, CpuStreamMode::kInline, 1);
  add(targets.back(), CpuStreamMode::kInline, 2);
  add(targets.back(), CpuStreamMode::kThreaded, 1);
  add(targets.back(), CpuStreamMode::kThreaded, 2);
  return devices;
}

void PrintTo(const DeviceCase& device, std::ostream* out) { *out << device.name; }

void EveryDevice::SetUp() {
  auto device = kernels::CreateCpuDevice(
      {.num_threads = GetParam().num_threads, .stream_mode = GetParam().mode});
  ASSERT_TRUE(device.ok()) << device.status();
  device_ = *std::move(device);
  kernels::cpu::SelectTarget(GetParam().target);
}

void EveryDevice::TearDown() {
  device_.reset();
  kernels::cpu::SelectTarget(kernels::cpu::AvailableTargets().back());
}

}  // namespace sluice::testing
