// Attention on the CPU: one task per sequence and key head, each alone with its thread's scratch.
#pragma once

#include <cstdint>

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/attention.h"

namespace sluice::kernels::cpu {

// Queries and keys are worked on in blocks of this many; blocks start at a sequence's first token.
inline constexpr int64_t kAttentionBlock = 64;

// Hands out pieces of a task's scratch, aligned to 64 bytes, in 32-bit words.
class WordArena {
 public:
  explicit WordArena(uint32_t* words) : next_(words) {}
  uint32_t* Take(int64_t words) {
    uint32_t* taken = next_;
    next_ += RoundUp(words);
    return taken;
  }
  float* TakeFloats(int64_t floats) { return reinterpret_cast<float*>(Take(floats)); }
  static int64_t RoundUp(int64_t n) { return (n + 15) / 16 * 16; }

 private:
  uint32_t* next_;
};

// The tokens of one sequence and one key head.
struct AttentionTask {
  int64_t first_token = 0, length = 0, kv_head = 0;
  uint32_t* scratch = nullptr;  // ForwardWords or BackwardWords of them
};

struct AttentionTable {
  // By dtype of q.
  void (*forward_f32)(const AttentionArgs& args, const AttentionTask& task) = nullptr;
  void (*forward_bf16)(const AttentionArgs& args, const AttentionTask& task) = nullptr;
  void (*backward_f32)(const AttentionBackwardArgs& args, const AttentionTask& task) = nullptr;
  void (*backward_bf16)(const AttentionBackwardArgs& args, const AttentionTask& task) = nullptr;
};
AttentionTable AttentionTableOf(Target target);

void Attention(ThreadPool& pool, const AttentionArgs& args);
void AttentionBackward(ThreadPool& pool, const AttentionBackwardArgs& args);

}  // namespace sluice::kernels::cpu
