// From a resolved RunConfig to the plain values that the rest uses.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "trainer/loop/trainer.h"
#include "trainer/model/attention.h"
#include "trainer/model/fp8.h"
#include "trainer/optim/lr_schedule.h"

namespace sluice::trainer {

// Defaults of what is counted in steps, once the number of steps is known: with train.epochs only
// the data tells it.
void ResolveLrSteps(TrainConfig& config);

absl::StatusOr<Recompute> ParseRecompute(absl::string_view text);  // "none" or "norm,mla_up,swiglu"
LrSchedule MakeLrSchedule(const TrainConfig& train);
BatchRamp MakeBatchRamp(const RunConfig& config);
// Null unless compute.precision is FP8.
std::optional<Fp8Options> MakeFp8Options(const RunConfig& config);

}  // namespace sluice::trainer
