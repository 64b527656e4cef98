// The only place where MPI is called is mpi.cc.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/comm/communicator.h"

namespace sluice::parallel {

// Owns MPI_Init and MPI_Finalize; one per process, made first in main().
class MpiSession {
 public:
  // FAILED_PRECONDITION when MPI cannot give MPI_THREAD_MULTIPLE. Where the user has not chosen,
  // asks Open MPI to give the core away while it waits and, when all ranks are on this host, to use
  // shared memory only.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Create(int* argc, char*** argv);
  virtual ~MpiSession() = default;
  // All ranks of the job, a group of its own at each call, which all ranks make. CPU tensors only.
  // Communicators must go before the session does.
  virtual std::unique_ptr<Communicator> World() = 0;
  // How many ranks of the job run on this host, and this rank's number among them.
  virtual int ranks_on_host() const = 0;
  virtual int rank_on_host() const = 0;
  // Whether more ranks may run on this rank's cores than these are (mpirun may bind ranks to
  // cores). Then its groups sleep between their questions for a message (patience.h).
  virtual bool shares_cores() const = 0;
};

}  // namespace sluice::parallel
