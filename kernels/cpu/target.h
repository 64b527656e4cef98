// The instruction sets that the CPU kernels are compiled for, and which of them is in use.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::kernels::cpu {

// Slowest first. kScalar runs anywhere; the others need:
//   kAvx2        avx2, fma
//   kAvx512      + avx512 f, bw, dq, vl
//   kAvx512Bf16  + avx512_bf16
enum class Target : uint8_t { kScalar, kAvx2, kAvx512, kAvx512Bf16 };
inline constexpr int kNumTargets = 4;

absl::string_view NameOf(Target target);  // "scalar", "avx2", "avx512", "avx512bf16"

// What this machine and operating system can run, slowest first; never empty.
std::vector<Target> AvailableTargets();

// The target of every op from now on: the fastest available unless SelectTarget was called.
Target CurrentTarget();
inline absl::string_view TargetName() { return NameOf(CurrentTarget()); }

// For tests and for an explicit option. CHECKs that `target` is available. No op may be running.
// Packed matrices stay valid.
void SelectTarget(Target target);

}  // namespace sluice::kernels::cpu
