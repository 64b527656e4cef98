#include "kernels/cpu/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/core/check.h"
#include "kernels/cpu/op_table.h"
#include "kernels/cpu/scratch.h"

#define SLUICE_TARGET_FILE "kernels/cpu/attention-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

AttentionTable AttentionTableOf(Target target) { return SLUICE_TABLE_OF(kAttentionTable, target); }

namespace {

// Words of scratch of the longest task; both bounds follow the pieces taken in the -inl files.
int64_t ForwardWords(int64_t length, int64_t d, int64_t v) {
  const int64_t padded = (length + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
  const int64_t d_words = WordArena::RoundUp(d), v_words = WordArena::RoundUp(v);
  return (padded + kAttentionBlock) * (d_words + v_words) +
         kAttentionBlock * (2 * kAttentionBlock + 6);
}

int64_t BackwardWords(int64_t length, int64_t d, int64_t v) {
  const int64_t padded = (length + kAttentionBlock - 1) / kAttentionBlock * kAttentionBlock;
  const int64_t d_words = WordArena::RoundUp(d), v_words = WordArena::RoundUp(v);
  return padded * (6 * d_words + 4 * v_words + 2) + kAttentionBlock * (5 * kAttentionBlock + 2);
}

int64_t CheckStarts(const ConstTensorView& starts, int64_t tokens) {
  const int32_t* data = starts.data<int32_t>();
  const int64_t sequences = starts.extent(0) - 1;
  int64_t longest = 0;
  CHECK_EQ(data[0], 0);
  CHECK_EQ(data[sequences], tokens);
  for (int64_t s = 0; s < sequences; ++s) {
    CHECK_LE(data[s], data[s + 1]) << "start of sequence " << s + 1;
    longest = std::max<int64_t>(longest, data[s + 1] - data[s]);
  }
  return longest;
}

// Runs `body` for every sequence and key head, longest work first being the caller's order.
template <typename Args>
void RunTasks(ThreadPool& pool, const Args& args, int64_t words,
              void (*body)(const Args&, const AttentionTask&)) {
  const int32_t* starts = args.starts.template data<int32_t>();
  const int64_t kv_heads = args.k.extent(1), sequences = args.starts.extent(0) - 1;
  pool.ParallelFor(sequences * kv_heads, [&](int64_t i) {
    thread_local Scratch scratch;
    const int64_t s = i / kv_heads;
    const AttentionTask task = {.first_token = starts[s],
                                .length = starts[s + 1] - starts[s],
                                .kv_head = i % kv_heads,
                                .scratch = scratch.Get<uint32_t>(static_cast<size_t>(words))};
    if (task.length > 0) body(args, task);
  });
}

}  // namespace

void Attention(ThreadPool& pool, const AttentionArgs& args) {
  const int64_t longest = CheckStarts(args.starts, args.q.extent(0));
  const AttentionTable& table = Table().attention;
  RunTasks(pool, args, ForwardWords(longest, args.q.extent(2), args.v.extent(2)),
           args.q.dtype() == DType::kBF16 ? table.forward_bf16 : table.forward_f32);
}

void AttentionBackward(ThreadPool& pool, const AttentionBackwardArgs& args) {
  const int64_t longest = CheckStarts(args.starts, args.q.extent(0));
  const AttentionTable& table = Table().attention;
  RunTasks(pool, args, BackwardWords(longest, args.q.extent(2), args.v.extent(2)),
           args.q.dtype() == DType::kBF16 ? table.backward_bf16 : table.backward_f32);
}

}  // namespace sluice::kernels::cpu
