// How ranks end when some of them failed.
#pragma once

#include <chrono>

#include "absl/status/status.h"
#include "parallel/comm/communicator.h"

namespace sluice::launch {

// Every rank calls this once with the result of its command and a group used for nothing else (P
// ranks). When all have come, returns this rank's own status after the first rank has printed each
// different error once on stderr. A rank that failed and waits longer than `patience` for the
// others, who may be stuck in a call to it, aborts the job with its error.
absl::Status FinishTogether(const absl::Status& result, parallel::Communicator& group,
                            std::chrono::milliseconds patience);

}  // namespace sluice::launch
