// How the element-wise and row-wise ops hand their loops to the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"
#include "kernels/core/thread_pool.h"

namespace sluice::kernels::cpu {

// The loop of an op over rows (or elements) [begin, end) of its arguments.
template <typename Args>
using RangeFunction = void (*)(const Args& args, int64_t begin, int64_t end);

// The same loop for each dtype of the activations.
template <typename Args>
struct ByDType {
  RangeFunction<Args> f32 = nullptr, bf16 = nullptr;
  RangeFunction<Args> operator[](DType dtype) const {
    CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << NameOf(dtype).data();
    return dtype == DType::kBF16 ? bf16 : f32;
  }
};

// Elements that are worth a task: some microseconds, ten times what handing them over costs.
inline constexpr int64_t kElementsPerTask = 8192;

// Runs `loop` over [0, n), each of which works on `elements_each` elements and is independent of
// the others.
template <typename Args>
void RunRanges(ThreadPool& pool, int64_t n, int64_t elements_each, RangeFunction<Args> loop,
               const Args& args) {
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, elements_each));
  pool.ParallelRanges(n, grain, [&](int64_t begin, int64_t end) { loop(args, begin, end); });
}

// The same for loops over columns, cut at multiples of `columns_each`.
template <typename Args>
void RunColumns(ThreadPool& pool, int64_t columns, int64_t columns_each, RangeFunction<Args> loop,
                const Args& args) {
  const int64_t pieces = (columns + columns_each - 1) / columns_each;
  pool.ParallelFor(pieces, [&](int64_t i) {
    loop(args, i * columns_each, std::min(columns, (i + 1) * columns_each));
  });
}

}  // namespace sluice::kernels::cpu
