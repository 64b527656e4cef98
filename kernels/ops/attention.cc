#include "kernels/ops/attention.h"

#include "kernels/cpu/attention.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

namespace {

// The shapes that forward and backward share.
void CheckAttention(const Stream& stream, const ConstTensorView& q, const ConstTensorView& k,
                    const ConstTensorView& v, const ConstTensorView& starts) {
  const DType dtype = CheckFloat("Attention.q", q);
  CHECK_EQ(q.shape().rank(), 3);
  CHECK_EQ(k.shape().rank(), 3);
  CHECK_EQ(v.shape().rank(), 3);
  CHECK_EQ(starts.shape().rank(), 1);
  CHECK_GE(starts.extent(0), 1);
  CHECK_GE(k.extent(1), 1);
  CHECK_EQ(q.extent(1) % k.extent(1), 0) << "query heads per key head";
  CheckTensor(stream, "Attention.q", q, q.shape(), dtype);
  CheckTensor(stream, "Attention.k", k, {q.extent(0), k.extent(1), q.extent(2)}, dtype);
  CheckTensor(stream, "Attention.v", v, {q.extent(0), k.extent(1), v.extent(2)}, dtype);
  CheckTensor(stream, "Attention.starts", starts, starts.shape(), DType::kI32);
}

}  // namespace

void Attention(Stream& stream, const AttentionArgs& args) {
  CheckAttention(stream, args.q, args.k, args.v, args.starts);
  CHECK_GT(args.scale, 0.0f);
  const int64_t tokens = args.q.extent(0), heads = args.q.extent(1);
  CheckTensor(stream, "Attention.o", args.o, {tokens, heads, args.v.extent(2)}, args.q.dtype());
  CheckTensor(stream, "Attention.log_sum_exp", args.log_sum_exp, {tokens, heads}, DType::kF32);
  RUN_OP(stream, Attention, args);
}

void AttentionBackward(Stream& stream, const AttentionBackwardArgs& args) {
  CheckAttention(stream, args.q, args.k, args.v, args.starts);
  CHECK_GT(args.scale, 0.0f);
  const int64_t tokens = args.q.extent(0), heads = args.q.extent(1);
  const DType dtype = args.q.dtype();
  const Shape o_shape = {tokens, heads, args.v.extent(2)};
  CheckTensor(stream, "AttentionBackward.dout", args.dout, o_shape, dtype);
  CheckTensor(stream, "AttentionBackward.o", args.o, o_shape, dtype);
  CheckTensor(stream, "AttentionBackward.log_sum_exp", args.log_sum_exp, {tokens, heads},
              DType::kF32);
  CheckTensor(stream, "AttentionBackward.dq", args.dq, args.q.shape(), dtype);
  CheckTensor(stream, "AttentionBackward.dk", args.dk, args.k.shape(), dtype);
  CheckTensor(stream, "AttentionBackward.dv", args.dv, args.v.shape(), dtype);
  const auto scratch_bytes = static_cast<int64_t>(AttentionScratchBytes(
      stream, tokens, heads, args.k.extent(1), args.q.extent(2), args.v.extent(2)));
  if (scratch_bytes > 0) {
    CHECK_GE(args.scratch.num_elements(), scratch_bytes);
    CheckTensor(stream, "AttentionBackward.scratch", args.scratch, args.scratch.shape(),
                DType::kU8);
  }
  RUN_OP(stream, AttentionBackward, args);
}

// The CPU keeps its blocks in grow-only memory of the threads that work on them. CUDA keeps two
// statistics of each query, head by head.
size_t AttentionScratchBytes(Stream& stream, int64_t tokens, int64_t heads, int64_t, int64_t,
                             int64_t) {
  if (!IsOnCuda(stream)) return 0;
  return static_cast<size_t>(2 * heads * tokens) * sizeof(float);
}

}  // namespace sluice::kernels
