#include "kernels/reference/reduce_rows.h"

#include "kernels/core/check.h"

namespace sluice::kernels::reference {
namespace {

template <typename T>
bool IsNan(T value) {
  return value != value;
}

// In T: the rounding of each step is part of what is asked for.
template <typename T>
T Combine(Reduction reduction, T a, T b) {
  if (reduction == Reduction::kSum) return a + b;
  if (IsNan(a)) return a;
  if (IsNan(b)) return b;
  if (reduction == Reduction::kMax) return a < b ? b : a;
  return b < a ? b : a;
}

template <typename T>
void Reduce(const ReduceRowsArgs& args) {
  const int64_t n = args.y.num_elements();
  for (int64_t i = 0; i < n; ++i) {
    T value = args.rows.data<T>()[i];
    for (int64_t p = 1; p < args.rows.extent(0); ++p) {
      value = Combine(args.reduction, value, args.rows.data<T>()[p * n + i]);
    }
    args.y.mutable_data<T>()[i] = value;
  }
}

}  // namespace

void ReduceRows(const ReduceRowsArgs& args) {
  const DType dtype = args.y.dtype();
  if (dtype == DType::kF32) return Reduce<float>(args);
  if (dtype == DType::kF64) return Reduce<double>(args);
  if (dtype == DType::kI32) return Reduce<int32_t>(args);
  CHECK(dtype == DType::kI64);
  Reduce<int64_t>(args);
}

}  // namespace sluice::kernels::reference
