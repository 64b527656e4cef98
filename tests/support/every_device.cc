#include "tests/support/every_device.h"

#include <iostream>
#include <map>
#include <ostream>

#include "kernels/core/cpu_device.h"

namespace sluice::testing {

namespace {

// Prints at the end which cases a device left out.
class LeftOut : public ::testing::Environment {
 public:
  void Count(const std::string& test) { ++cases_[test]; }
  void TearDown() override {
    for (const auto& [test, count] : cases_) {
      std::cout << "[ LEFT OUT ] " << test << ": " << count << (count == 1 ? " case" : " cases")
                << " with more work than this device does\n";
    }
  }

 private:
  std::map<std::string, int> cases_;
};

LeftOut& LeftOutCases() {
  static auto* const cases = new LeftOut;  // GoogleTest deletes it
  static const auto* const added = ::testing::AddGlobalTestEnvironment(cases);
  (void)added;
  return *cases;
}

}  // namespace

void PrintTo(const DeviceCase& device, std::ostream* out) { *out << device.name; }

void EveryDevice::SetUp() {
  auto device = GetParam().create != nullptr
                    ? GetParam().create()
                    : kernels::CreateCpuDevice(
                          {.num_threads = GetParam().num_threads, .stream_mode = GetParam().mode});
  ASSERT_TRUE(device.ok()) << device.status();
  device_ = *std::move(device);
  SetTensorMemory(GetParam().memory);
  kernels::cpu::SelectTarget(GetParam().target);
}

void EveryDevice::TearDown() {
  SetTensorMemory({});
  device_.reset();
  kernels::cpu::SelectTarget(kernels::cpu::AvailableTargets().back());
}

bool EveryDevice::IsTooMuchHere(double work) {
  if (GetParam().work_limit == 0 || work <= GetParam().work_limit) return false;
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  LeftOutCases().Count(std::string(info->test_suite_name()) + "." + info->name());
  return true;
}

}  // namespace sluice::testing
