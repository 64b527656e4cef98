// Fills an ExchangePlan from who chose which expert: integer arithmetic only, no communication, so
// that it can be read and tested alone. Not for use outside this folder.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "parallel/expert/token_exchange.h"

namespace sluice::parallel {

// counts[e] = how often expert e was chosen in expert_of [T, K], which lies on the host, as do all
// arguments here; CHECKs that each is in [0, E).
void CountTokens(ConstTensorView expert_of, std::span<int32_t> counts);

// Makes room in plan.storage, on the device, and fills the plan of rank `rank`. counts [E]: of this
// rank; counts_from [P, L]: what each rank sends to each of this rank's experts.
absl::Status FillPlan(kernels::DeviceContext& device, int rank, ConstTensorView expert_of,
                      std::span<int32_t> counts, std::span<int32_t> counts_from, Stream& stream,
                      ExchangePlan& plan);

}  // namespace sluice::parallel
