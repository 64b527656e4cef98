// What tests/support/mpi_main.cc gives the tests that run under mpirun.
#pragma once

#include "parallel/comm/communicator.h"
#include "parallel/comm/mpi.h"

namespace sluice::testing {

// All ranks of the test job. Every rank runs the same tests in the same order, so a test may use it
// as it likes, if it leaves no message behind.
parallel::Communicator& World();
parallel::MpiSession& Session();
// Whether Open MPI's transport was chosen before the session began: OMPI_MCA_pml or OMPI_MCA_btl.
bool TransportWasChosen();

}  // namespace sluice::testing
