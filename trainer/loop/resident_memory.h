// What the operating system says this process holds.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"

namespace sluice::trainer {

// Resident bytes of this process that are its own: without pages of files that it only maps. 0
// where the system does not tell.
int64_t ResidentBytes();

// One line that puts what ranks hold beside their memory tables, both in bytes, of the rank where
// the two differ most. Every rank calls it; rank 0 gets all of them.
absl::StatusOr<std::string> CompareResident(parallel::Communicator& world, int64_t table,
                                            int64_t resident);

}  // namespace sluice::trainer
