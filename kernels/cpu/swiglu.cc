#include "kernels/cpu/swiglu.h"

#include "kernels/cpu/op_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/swiglu-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

SwigluTable SwigluTableOf(Target target) { return SLUICE_TABLE_OF(kSwigluTable, target); }

void Swiglu(ThreadPool& pool, const SwigluArgs& args) {
  RunRanges(pool, args.y.extent(0), args.y.extent(1), Table().swiglu.forward[args.y.dtype()], args);
}

void SwigluBackward(ThreadPool& pool, const SwigluBackwardArgs& args) {
  RunRanges(pool, args.dy.extent(0), 2 * args.dy.extent(1),
            Table().swiglu.backward[args.dy.dtype()], args);
}

}  // namespace sluice::kernels::cpu
