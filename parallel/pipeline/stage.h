// A run of layers on one rank. The trainer implements it, the executor drives it, tests use toy
// stages.
#pragma once

#include "absl/status/status.h"
#include "kernels/core/device.h"

namespace sluice::parallel {

class Stage {
 public:
  virtual ~Stage() = default;

  // A forward or backward is cut in phases (attention | dispatch | experts | combine), so that an
  // overlapped pair can interleave them on two streams; 1 is legal.
  virtual int NumPhases() const = 0;
  virtual kernels::StreamRole RoleOf(int phase) const = 0;

  // Phases are called in ascending order, backward in descending order. Forward and BackwardInput
  // enqueue on the stream of the phase's role, and find there that all earlier phases of the same
  // microbatch are done. BackwardInput must not touch parameter gradients. BackwardWeight enqueues
  // on the compute stream, for each phase some time after its BackwardInput and perhaps before that
  // of lower ones; it adds to the gradients, and that of phase 0 frees what is left of the
  // microbatch.
  virtual absl::Status Forward(int microbatch, int phase) = 0;
  virtual absl::Status BackwardInput(int microbatch, int phase) = 0;
  virtual absl::Status BackwardWeight(int microbatch, int phase) = 0;

  // Message buffers of a microbatch. The executor fills InputActivation before Forward (not for the
  // first stage) and OutputGradient before BackwardInput (not for the last); it reads
  // OutputActivation after Forward and InputGradient after BackwardInput and says when it is done
  // with them. The stage allocates on the first call of each.
  virtual absl::StatusOr<kernels::TensorView> InputActivation(int microbatch) = 0;
  virtual absl::StatusOr<kernels::TensorView> OutputGradient(int microbatch) = 0;
  virtual kernels::ConstTensorView OutputActivation(int microbatch) = 0;
  virtual kernels::ConstTensorView InputGradient(int microbatch) = 0;
  virtual void ReleaseOutputActivation(int microbatch) = 0;
  virtual void ReleaseInputGradient(int microbatch) = 0;
};

}  // namespace sluice::parallel
