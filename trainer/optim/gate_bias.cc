#include "trainer/optim/gate_bias.h"

#include "kernels/core/check.h"

namespace sluice::trainer {

void MoveGateBias(std::span<const int64_t> load, float speed, std::span<float> bias) {
  CHECK_EQ(load.size(), bias.size());
  const auto experts = static_cast<int64_t>(load.size());
  int64_t total = 0;
  for (const int64_t count : load) total += count;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t missing = total - load[e] * experts;
    bias[e] += missing > 0 ? speed : missing < 0 ? -speed : 0.0f;
  }
}

}  // namespace sluice::trainer
