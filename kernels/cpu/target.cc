#include "kernels/cpu/target.h"

#include <algorithm>
#include <atomic>

#include "kernels/core/check.h"

namespace sluice::kernels::cpu {
namespace {

bool IsAvailable(Target target) {
#if defined(__x86_64__)
  // These ask cpuid, and the operating system whether it saves the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  switch (target) {
    case Target::kScalar:
      return true;
    case Target::kAvx2:
      return avx2;
    case Target::kAvx512:
      return avx512;
    case Target::kAvx512Bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
  }
  return false;
#else
  return target == Target::kScalar;
#endif
}

std::atomic<Target>& Selected() {
  static std::atomic<Target> selected{AvailableTargets().back()};
  return selected;
}

}  // namespace

absl::string_view NameOf(Target target) {
  switch (target) {
    case Target::kScalar:
      return "scalar";
    case Target::kAvx2:
      return "avx2";
    case Target::kAvx512:
      return "avx512";
    case Target::kAvx512Bf16:
      return "avx512bf16";
  }
  return "?";
}

std::vector<Target> AvailableTargets() {
  std::vector<Target> targets;
  for (int i = 0; i < kNumTargets; ++i) {
    if (IsAvailable(static_cast<Target>(i))) targets.push_back(static_cast<Target>(i));
  }
  return targets;
}

Target CurrentTarget() { return Selected().load(std::memory_order_relaxed); }

void SelectTarget(Target target) {
  CHECK(IsAvailable(target)) << "this machine cannot run " << NameOf(target).data();
  Selected().store(target, std::memory_order_relaxed);
}

}  // namespace sluice::kernels::cpu
