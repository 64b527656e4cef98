#include "kernels/cpu/cross_entropy.h"

#include <cmath>
#include <cstring>

#include "kernels/cpu/op_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/cross_entropy-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

CrossEntropyTable CrossEntropyTableOf(Target target) {
  return SLUICE_TABLE_OF(kCrossEntropyTable, target);
}

void CrossEntropy(ThreadPool& pool, const CrossEntropyArgs& args) {
  const int64_t vocabulary = args.logits.extent(1);
  const int32_t* targets = args.targets.data<int32_t>();
  for (int64_t c = 0; c < args.targets.extent(0); ++c) {
    CHECK_LT(targets[c], vocabulary) << "target of row " << c;
  }
  const DType dtype = args.dlogits.is_null() ? DType::kF32 : args.dlogits.dtype();
  RunRanges(pool, args.logits.extent(0), vocabulary, Table().cross_entropy.rows[dtype], args);
}

}  // namespace sluice::kernels::cpu
