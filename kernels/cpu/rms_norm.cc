#include "kernels/cpu/rms_norm.h"

#include "kernels/cpu/op_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/rms_norm-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

RmsNormTable RmsNormTableOf(Target target) { return SLUICE_TABLE_OF(kRmsNormTable, target); }

void RmsNorm(ThreadPool& pool, const RmsNormArgs& args) {
  RunRanges(pool, args.x.extent(0), args.x.extent(1), Table().rms_norm.forward[args.x.dtype()],
            args);
}

void RmsNormBackwardInput(ThreadPool& pool, const RmsNormBackwardInputArgs& args) {
  RunRanges(pool, args.x.extent(0), args.x.extent(1),
            Table().rms_norm.backward_input[args.x.dtype()], args);
}

void RmsNormBackwardWeight(ThreadPool& pool, const RmsNormBackwardWeightArgs& args) {
  constexpr int64_t kColumnsPerTask = 64;
  RunColumns(pool, args.x.extent(1), kColumnsPerTask,
             Table().rms_norm.backward_weight[args.x.dtype()], args);
}

}  // namespace sluice::kernels::cpu
