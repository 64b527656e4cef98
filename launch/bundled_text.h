// The sample text that comes with Sluice, as data of a run.
#pragma once

#include "absl/status/status.h"
#include "trainer/loop/run_config.pb.h"

namespace sluice::launch {

// With data.bundled_sample: fills data.train and data.validation, where they are empty, with the
// bundled novels and the one held out. A run that names its own training text uses nothing of it.
// NOT_FOUND if the text does not lie beside this program.
absl::Status UseBundledText(trainer::RunConfig& config);

}  // namespace sluice::launch
