// The only place where MPI is called.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"

namespace sluice::parallel {

// Owns MPI_Init and MPI_Finalize; one per process, made first in main().
class MpiSession {
 public:
  // FAILED_PRECONDITION when MPI cannot give MPI_THREAD_MULTIPLE.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Create(int* argc, char*** argv);
  virtual ~MpiSession() = default;
  // All ranks of the job. CPU tensors only.
  virtual std::unique_ptr<Communicator> World() = 0;
  // How many ranks of the job run on this host, and this rank's number among them.
  virtual int ranks_on_host() const = 0;
  virtual int rank_on_host() const = 0;
};

}  // namespace sluice::parallel
