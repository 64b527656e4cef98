#include "kernels/cpu/reduce_rows.h"

#include "kernels/core/check.h"
#include "kernels/cpu/ranges.h"

namespace sluice::kernels::cpu {
namespace {

// Element by element, so that y may be one of the rows.
template <typename T, typename Combine>
void ReduceWith(ThreadPool& pool, const ReduceRowsArgs& args, const Combine& combine) {
  const int64_t num_rows = args.rows.extent(0), n = args.y.num_elements();
  const T* rows = args.rows.data<T>();
  T* y = args.y.mutable_data<T>();
  pool.ParallelRanges(n, kElementsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T value = rows[i];
      for (int64_t p = 1; p < num_rows; ++p) value = combine(value, rows[p * n + i]);
      y[i] = value;
    }
  });
}

template <typename T>
void ReduceTyped(ThreadPool& pool, const ReduceRowsArgs& args) {
  switch (args.reduction) {
    case Reduction::kSum:
      return ReduceWith<T>(pool, args, [](T a, T b) { return a + b; });
    case Reduction::kMax:  // b != b: a NaN
      return ReduceWith<T>(pool, args, [](T a, T b) { return b > a || b != b ? b : a; });
    case Reduction::kMin:
      return ReduceWith<T>(pool, args, [](T a, T b) { return b < a || b != b ? b : a; });
  }
}

}  // namespace

void ReduceRows(ThreadPool& pool, const ReduceRowsArgs& args) {
  switch (args.y.dtype()) {
    case DType::kF32:
      return ReduceTyped<float>(pool, args);
    case DType::kF64:
      return ReduceTyped<double>(pool, args);
    case DType::kI32:
      return ReduceTyped<int32_t>(pool, args);
    case DType::kI64:
      return ReduceTyped<int64_t>(pool, args);
    default:
      CHECK(false) << "ReduceRows of " << NameOf(args.y.dtype()).data();
  }
}

}  // namespace sluice::kernels::cpu
