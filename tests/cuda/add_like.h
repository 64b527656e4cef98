// How the tensor units of the software device add, chosen by a test.
#pragma once

#include <dlfcn.h>

namespace sluice::kernels::cuda {

// Exactly (0), as an H100 does (1), or as before the test (-1):
// tests/cuda_double/runtime/control.h. False on a real GPU, which adds its own way.
inline bool AddLike(int accumulator) {
  using Function = void (*)(int accumulator);
  const auto accumulate = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "cuda_double_accumulate"));
  if (accumulate == nullptr) return false;
  accumulate(accumulator);
  return true;
}

}  // namespace sluice::kernels::cuda
