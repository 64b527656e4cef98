#include "kernels/cpu/cast.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/op_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/cast-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

CastTable CastTableOf(Target target) { return SLUICE_TABLE_OF(kCastTable, target); }

void Cast(ThreadPool& pool, const CastArgs& args) {
  const CastTable& table = Table().cast;
  const bool to_bf16 = args.to.dtype() == DType::kBF16;
  const DType from = args.from.dtype();
  if (args.from.is_contiguous() && args.to.is_contiguous()) {
    RunRanges(pool, args.to.num_elements(), 1, (to_bf16 ? table.to_bf16 : table.to_f32)[from],
              args);
  } else {
    RunRanges(pool, args.to.extent(0), args.to.shape().elements_per_row(),
              (to_bf16 ? table.rows_to_bf16 : table.rows_to_f32)[from], args);
  }
}

namespace {

template <typename T>
void FillWith(ThreadPool& pool, const TensorView& to, T value) {
  T* data = to.mutable_data<T>();
  pool.ParallelRanges(to.num_elements(), kElementsPerTask, [&](int64_t begin, int64_t end) {
    std::fill(data + begin, data + end, value);
  });
}

}  // namespace

void Fill(ThreadPool& pool, const TensorView& to, double value) {
  switch (to.dtype()) {
    case DType::kF32:
      return FillWith(pool, to, static_cast<float>(value));
    case DType::kBF16:
      return FillWith(pool, to, ToBFloat16(static_cast<float>(value)));
    case DType::kI32:
      return FillWith(pool, to, static_cast<int32_t>(value));
    case DType::kI64:
      return FillWith(pool, to, static_cast<int64_t>(value));
    case DType::kU8:
      return FillWith(pool, to, static_cast<uint8_t>(value));
    case DType::kF64:
      return FillWith(pool, to, value);
    case DType::kE4M3:
      return FillWith(pool, to, ToE4M3(static_cast<float>(value)));
  }
}

void Add(ThreadPool& pool, const AddArgs& args) {
  RunRanges(pool, args.y.num_elements(), 1, Table().cast.add[args.y.dtype()], args);
}

}  // namespace sluice::kernels::cpu
