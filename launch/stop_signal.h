// SIGUSR1, SIGTERM and SIGINT ask a run to save and end.
#pragma once

namespace sluice::launch {

// From now on these signals only set a flag. Call before threads are started.
void CatchStopSignals();
// One of them has come. Any thread.
bool StopRequested();

}  // namespace sluice::launch
