#include "parallel/comm/patience.h"

#include <algorithm>
#include <ctime>

namespace sluice::parallel {

int64_t Patience::NextSleep(int64_t slept) { return std::clamp(slept / 4, kShortest, kLongest); }

void Patience::Rest() {
  if (++asked_ <= kAwake) return;
  const timespec pause = {.tv_sec = 0, .tv_nsec = NextSleep(slept_)};
  slept_ += pause.tv_nsec;
  nanosleep(&pause, nullptr);  // a signal may end it early, which only means one question more
}

}  // namespace sluice::parallel
