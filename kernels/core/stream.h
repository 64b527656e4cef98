// A stream: a first-in first-out queue of work on one device. Enqueuing never waits for the work.
#pragma once

#include "absl/status/status.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

class Event {  // a point in a stream that another stream can wait for; made by
               // DeviceContext::CreateEvent
 public:
  virtual ~Event() = default;
};

class Stream {
 public:
  virtual ~Stream() = default;
  virtual DeviceId device() const = 0;
  virtual void Record(Event& event) = 0;
  virtual void Wait(
      const Event& event) = 0;  // orders later work of this stream; does not block the caller
  virtual absl::Status
  Synchronize() = 0;  // waits for all work; the only place where device errors come out
};

}  // namespace sluice::kernels
