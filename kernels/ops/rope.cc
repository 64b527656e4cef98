#include "kernels/ops/rope.h"

#include "kernels/cpu/rope.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

namespace {

// A view of `heads` heads of `width` columns each, head_stride apart, must hold the last one.
void CheckHeads(const Stream& stream, const char* name, const ConstTensorView& view,
                int64_t num_heads, int64_t head_stride, int64_t width) {
  CheckTensor(stream, name, view, view.shape(), CheckFloat(name, view));
  CHECK_GE(num_heads, 1) << name;
  CHECK(num_heads == 1 || head_stride >= width) << name << ": heads overlap";
  CHECK_LE((num_heads - 1) * head_stride + width, view.shape().elements_per_row()) << name;
}

}  // namespace

void Rope(Stream& stream, const RopeArgs& args) {
  CHECK_EQ(args.cos.shape().rank(), 2);
  CHECK_EQ(args.positions.shape().rank(), 1);
  const int64_t tokens = args.positions.extent(0), width = 2 * args.cos.extent(1);
  CheckHeads(stream, "Rope.x", args.x, args.num_heads, args.head_stride, width);
  CheckHeads(stream, "Rope.y", args.y, args.num_heads, args.y_head_stride, width);
  CHECK_EQ(args.x.extent(0), tokens);
  CHECK_EQ(args.y.extent(0), tokens);
  CHECK(args.x.dtype() == args.y.dtype()) << "Rope.x and Rope.y differ in dtype";
  CheckTensor(stream, "Rope.cos", args.cos, args.cos.shape(), DType::kF32);
  CheckTensor(stream, "Rope.sin", args.sin, args.cos.shape(), DType::kF32);
  CheckTensor(stream, "Rope.positions", args.positions, {tokens}, DType::kI32);
  RUN_OP(stream, Rope, args);
}

void SumHeads(Stream& stream, const SumHeadsArgs& args) {
  CHECK_EQ(args.y.shape().rank(), 2);
  CheckHeads(stream, "SumHeads.x", args.x, args.num_heads, args.head_stride, args.y.extent(1));
  CheckTensor(stream, "SumHeads.y", args.y, {args.x.extent(0), args.y.extent(1)}, args.x.dtype());
  RUN_OP(stream, SumHeads, args);
}

void BroadcastHeads(Stream& stream, const BroadcastHeadsArgs& args) {
  CHECK_EQ(args.x.shape().rank(), 2);
  CheckHeads(stream, "BroadcastHeads.y", args.y, args.num_heads, args.head_stride,
             args.x.extent(1));
  CheckTensor(stream, "BroadcastHeads.x", args.x, {args.y.extent(0), args.x.extent(1)},
              args.y.dtype());
  RUN_OP(stream, BroadcastHeads, args);
}

}  // namespace sluice::kernels
