// What the operating system says this process holds.
#pragma once

#include <cstdint>

namespace sluice::trainer {

// Resident bytes of this process that are its own: without pages of files that it only maps. 0
// where the system does not tell.
int64_t ResidentBytes();

}  // namespace sluice::trainer
