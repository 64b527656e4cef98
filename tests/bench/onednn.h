// Products of oneDNN, to compare with. Wraps a library that throws.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/core/dtype.h"

namespace sluice::bench {

struct OneDnnProduct {
  int64_t m = 0, n = 0, k = 0;
  kernels::DType dtype = kernels::DType::kF32;  // of a and b; c is f32
  bool transpose_a = false, transpose_b = false, packed = false;
  const void *a = nullptr, *b = nullptr;
  void* c = nullptr;
};

// A call that computes the product with a primitive made beforehand; empty if oneDNN was not found
// at build time or lacks the product.
std::function<void()> MakeOneDnnProduct(const OneDnnProduct& product);

void SetOneDnnThreads(int threads);
std::string OneDnnVersion();  // "none" without it

}  // namespace sluice::bench
