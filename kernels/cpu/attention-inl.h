// Each of these uses the ones before it.
// clang-format off
#include "kernels/cpu/reduce-inl.h"
#include "kernels/cpu/small_matmul-inl.h"
#include "kernels/cpu/transpose-inl.h"
#include "kernels/cpu/attention_pack-inl.h"
#include "kernels/cpu/attention_forward-inl.h"
#include "kernels/cpu/attention_backward-inl.h"
// clang-format on

namespace sluice::kernels::cpu::SLUICE_TARGET {

inline constexpr AttentionTable kAttentionTable = {
    .forward_f32 = AttentionForward<float>,
    .forward_bf16 = AttentionForward<BFloat16>,
    .backward_f32 = AttentionBackwardTask<float>,
    .backward_bf16 = AttentionBackwardTask<BFloat16>,
};

}  // namespace sluice::kernels::cpu::SLUICE_TARGET
