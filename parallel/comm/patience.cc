#include "parallel/comm/patience.h"

#include <ctime>

namespace sluice::parallel {

void Patience::Rest() {
  if (++asked_ <= kAwake) return;
  const timespec pause = {.tv_sec = 0, .tv_nsec = kSleepNanoseconds};
  nanosleep(&pause, nullptr);  // a signal may end it early, which only means one question more
}

}  // namespace sluice::parallel
