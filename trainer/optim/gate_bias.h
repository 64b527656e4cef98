// Balancing experts without an auxiliary loss (DeepSeek-V3 report section 2.1.2).   E experts
#pragma once

#include <cstdint>
#include <span>

namespace sluice::trainer {

// bias_e += speed * sign(mean load - load_e), compared in exact integers. load [E]: tokens that
// chose each expert in the global batch; bias [E]: e_score_correction_bias of the same gate.
void MoveGateBias(std::span<const int64_t> load, float speed, std::span<float> bias);

}  // namespace sluice::trainer
