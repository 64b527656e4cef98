#include "kernels/cpu/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/cpu/op_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/adamw-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

AdamWTable AdamWTableOf(Target target) { return SLUICE_TABLE_OF(kAdamWTable, target); }

void AdamW(ThreadPool& pool, const AdamWArgs& args) {
  const AdamWTable& table = Table().adamw;
  const DType moments = args.m.dtype();
  RangeFunction<AdamWArgs> loop = table.without_value[moments];
  if (!args.value.is_null()) {
    loop = (args.value.dtype() == DType::kBF16 ? table.value_bf16 : table.value_f32)[moments];
  }
  RunRanges(pool, args.master.num_elements(), 1, loop, args);
}

void SumSquares(ThreadPool& pool, const SumSquaresArgs& args) {
  const int64_t blocks = (args.x.num_elements() + kSumSquaresBlock - 1) / kSumSquaresBlock;
  RunRanges(pool, blocks, kSumSquaresBlock, Table().adamw.sum_squares, args);
  double* sum = args.sum.mutable_data<double>();
  double total = args.accumulate ? *sum : 0.0;
  const double* parts = args.scratch.data<double>();
  for (int64_t first = 0; first < blocks; first += kSumSquaresGroup) {
    const int64_t last = std::min(first + kSumSquaresGroup, blocks);
    total += std::accumulate(parts + first, parts + last, 0.0);
  }
  *sum = total;
}

}  // namespace sluice::kernels::cpu
