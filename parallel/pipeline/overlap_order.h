// The order in which the phases of an overlapped pair are enqueued. Pure, so that the executor and
// whoever times a schedule share it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/core/device.h"

namespace sluice::parallel {

enum class PhaseKind : uint8_t { kForward, kBackwardInput, kBackwardWeight };

struct PhaseStep {
  PhaseKind kind = PhaseKind::kForward;
  int phase = 0;
  friend bool operator==(const PhaseStep&, const PhaseStep&) = default;
};

// `front`: roles of the forward's phases, which come in ascending order; `back`: of the backward's,
// which come in descending order. Either may be empty.
//
// Two streams are busy when a phase that computes runs beside one that communicates: wherever the
// next of the two halves have different roles, both are enqueued, communication first; with equal
// roles only the half that is behind goes on, forward first. For an MoE layer on each side this is
// the order of the DeepSeek-V3 report, figure 4: combine B with attention F, dispatch F with
// experts B, dispatch B with experts F, combine F with attention B. Weight gradients, which
// compute, follow the next communication of the backward that needs no result of theirs.
// BackwardWeight of a phase comes after a BackwardInput that computes, of the same phase or of a
// lower one, or at the end.
std::vector<PhaseStep> OverlapOrder(std::span<const kernels::StreamRole> front,
                                    std::span<const kernels::StreamRole> back);

}  // namespace sluice::parallel
