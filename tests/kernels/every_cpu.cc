#include "kernels/cpu/target.h"
#include "tests/support/every_device.h"

namespace sluice::testing {

using kernels::CpuStreamMode;
using kernels::cpu::Target;

// Every instruction set inline on one thread; the fastest also on two threads and as a threaded
// stream.
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

}  // namespace sluice::testing
