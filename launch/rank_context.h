// What the commands that compute stand on: this rank's device and its place among the ranks.
#pragma once

#include <cstdio>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "launch/command.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/loop/trainer.h"

namespace sluice::launch {

// The device that `compute` (resolved) asks for; compute.threads 0 becomes this rank's share of the
// cores.
absl::StatusOr<std::unique_ptr<kernels::DeviceContext>> CreateDevice(
    const trainer::ComputeConfig& compute, const CommandContext& context);

// The first two arguments must outlive the result. Lines for people go to `lines` from the first
// rank: stdout, or stderr for a command whose stdout is its result.
trainer::RankContext MakeRankContext(const CommandContext& context, kernels::DeviceContext& device,
                                     std::FILE* lines);

}  // namespace sluice::launch
