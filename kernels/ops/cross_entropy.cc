#include "kernels/ops/cross_entropy.h"

#include "kernels/cpu/cross_entropy.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

void CrossEntropy(Stream& stream, const CrossEntropyArgs& args) {
  const Shape shape = args.logits.shape();
  CHECK_EQ(shape.rank(), 2);
  CheckTensor(stream, "CrossEntropy.logits", args.logits, shape, DType::kF32);
  CheckTensor(stream, "CrossEntropy.targets", args.targets, {shape[0]}, DType::kI32);
  CheckTensor(stream, "CrossEntropy.loss", args.loss, {shape[0]}, DType::kF32);
  if (!args.dlogits.is_null()) {
    CheckTensor(stream, "CrossEntropy.dlogits", args.dlogits, shape,
                CheckFloat("CrossEntropy.dlogits", args.dlogits));
  }
  RUN_OP(stream, CrossEntropy, args);
}

}  // namespace sluice::kernels
