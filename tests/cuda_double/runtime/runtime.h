// The state behind the CUDA runtime's functions: registered kernels, memory, streams, errors.
#pragma once

#include <driver_types.h>

#include <cstdint>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "tests/cuda_double/check/global_memory.h"
#include "tests/cuda_double/check/op_clocks.h"
#include "tests/cuda_double/exec/block.h"
#include "tests/cuda_double/ptx/ir.h"

namespace sluice::cuda_double {

struct Configuration {
  Timing timing = Timing::kRandom;
  uint32_t seed = 1;
  Accumulator accumulator = Accumulator::kExact;
};

// From CUDA_DOUBLE_TIMING=early|late|random, CUDA_DOUBLE_SEED and
// CUDA_DOUBLE_ACCUMULATOR=exact|h100.
Configuration ConfigurationOfEnvironment();

struct StreamState;

// A place in a stream: after its operation number `count`.
struct StreamPlace {
  StreamState* stream = nullptr;
  uint64_t count = 0;
};

struct Operation {
  std::function<std::string()> run;  // "" or what went wrong
  StreamPlace after;                 // of another stream; must be reached first
  // Of a message: whether the other processes have done their part, asked again and again. Null:
  // nothing waits for others.
  std::function<bool()> is_ready;
};

struct StreamState {
  int timeline = 0;
  std::deque<Operation> queue;
  uint64_t num_enqueued = 0, num_done = 0;
  uint64_t newest_message = 0;  // its place in the stream; 0: none yet
};

// What another library enqueues that must wait for other processes.
struct Message {
  std::string name;
  std::function<bool(OpId)> advance;    // true: nothing is left to wait for
  std::function<std::string()> finish;  // "" or what went wrong
};

struct EventState {
  StreamPlace place;
  std::vector<uint32_t> snapshot;
};

// Work that was recorded, to be enqueued as often as wanted.
struct Graph {
  struct Node {
    std::string name;
    std::function<std::string(OpId)> work;
  };
  std::vector<Node> nodes;
};

// A stream that records. Streams that join by events are not modelled.
struct Capture {
  StreamState* stream = nullptr;  // null: none does
  bool is_broken = false;         // something was called that must not be
  Graph graph;
};

struct LaunchRequest {
  const void* function = nullptr;
  Extent grid, block;
  size_t shared_bytes = 0;
  void** arguments = nullptr;
  StreamState* stream = nullptr;
};

// One for the process, as the runtime is. Callers hold mutex().
class Runtime {
 public:
  static Runtime& Get();
  std::mutex& mutex() { return mutex_; }
  void Configure(const Configuration& configuration);

  void RegisterFatBinary(const void* wrapper);
  void RegisterFunction(const void* function, const char* name);
  cudaError_t SetDynamicShared(const void* function, int bytes);

  StreamState* CreateStream();
  void DestroyStream(StreamState* stream);
  StreamState* Stream(cudaStream_t handle);  // null: the default stream's
  cudaError_t EnqueueLaunch(const LaunchRequest& request);
  // Work named for reports; it gets its place in the order of operations.
  cudaError_t Enqueue(StreamState& stream, const std::string& name,
                      std::function<std::string(OpId)> work);
  // A message goes on whenever its process is not in a call of the runtime, by a thread of the
  // double's: others wait for it, and this host may wait for others.
  cudaError_t EnqueueMessage(StreamState& stream, Message message);
  // Why nothing may wait just now ("" or null: it may): what would wait is an error.
  void RefuseWaiting(const char* why) { no_waiting_ = why; }
  // Between the two, work for the stream is recorded and does not run.
  cudaError_t BeginCapture(StreamState& stream);
  cudaError_t EndCapture(StreamState& stream, Graph& graph);
  bool IsCapturing(const StreamState& stream) const { return capture_.stream == &stream; }
  // While a stream records: reports the call, which breaks the capture. Else cudaSuccess.
  cudaError_t RefuseInCapture(const char* call);
  cudaError_t Replay(const Graph& graph, StreamState& stream);
  void Record(EventState& event, StreamState& stream);
  void Wait(StreamState& stream, const EventState& event);
  void RunTo(const StreamPlace& place);
  // As far as no message is waited for; whether it came there.
  bool TryRunTo(const StreamPlace& place);
  // All streams as far as their newest message; whether some still wait.
  bool AdvanceMessages();
  // The host has waited for it.
  cudaError_t Synchronize(StreamState& stream);
  cudaError_t SynchronizeAll();

  // The first error stays, as a broken context does; what the call itself found otherwise.
  cudaError_t Finish(cudaError_t code);
  // A broken rule or a kernel's error: printed and kept.
  cudaError_t Break(cudaError_t code, const std::string& report);
  cudaError_t last_error = cudaSuccess;
  const std::string& report() const { return report_; }
  void ForgetErrors();

  GlobalMemory& memory() { return memory_; }
  OpClocks& clocks() { return clocks_; }

 private:
  struct Function {
    std::string name;
    size_t most_dynamic_shared = 48 * 1024;  // until it asks for more
    Module* module = nullptr;
    Kernel* kernel = nullptr;
  };
  Runtime();
  OpId NewOp(const StreamState& stream, const std::string& name);
  std::string Load(Function& function);
  void LoadReplacements();
  bool TryNext(StreamState& stream);
  void StartAdvancing();
  void RunSomeAtRandom();

  std::mutex mutex_;
  // A line for each launch, and for each operation of a stream, if asked for.
  std::unique_ptr<std::ofstream> launches_, order_;
  Configuration configuration_;
  std::mt19937 random_;
  OpClocks clocks_;
  GlobalMemory memory_;
  std::vector<std::string> texts_;  // PTX not yet parsed
  std::vector<std::unique_ptr<Module>> modules_;
  // Kernels of CUDA_DOUBLE_PTX, a file of PTX that takes the place of what the program holds.
  std::map<std::string, std::pair<Module*, Kernel*>> replacements_;
  std::map<const void*, Function> functions_;
  std::vector<std::unique_ptr<StreamState>> streams_;
  cudaError_t broken_ = cudaSuccess;
  std::string report_;
  Capture capture_;
  uint32_t num_launches_ = 0;
  const char* no_waiting_ = nullptr;
  bool is_advancing_ = false;  // the thread for messages runs
};

}  // namespace sluice::cuda_double
