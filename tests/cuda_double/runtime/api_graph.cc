// Graphs: a stream's work recorded once and replayed (CUDA C++ Programming Guide, "CUDA Graphs").
#include <cuda_runtime_api.h>

#include <cstdio>
#include <mutex>
#include <utility>

#include "tests/cuda_double/runtime/runtime.h"

using namespace sluice::cuda_double;  // NOLINT: this file is the outside of that namespace

namespace {

using Lock = std::lock_guard<std::mutex>;

Graph& GraphOf(cudaGraph_t graph) { return *reinterpret_cast<Graph*>(graph); }
Graph& GraphOf(cudaGraphExec_t graph) { return *reinterpret_cast<Graph*>(graph); }

}  // namespace

namespace sluice::cuda_double {

cudaError_t Runtime::BeginCapture(StreamState& stream) {
  if (capture_.stream != nullptr || &stream == streams_.front().get()) {
    return Finish(cudaErrorStreamCaptureUnsupported);  // nor may the default stream
  }
  capture_ = {.stream = &stream, .is_broken = false, .graph = {}};
  return Finish(cudaSuccess);
}

cudaError_t Runtime::EndCapture(StreamState& stream, Graph& graph) {
  if (capture_.stream != &stream) return Finish(cudaErrorIllegalState);
  const Capture capture = std::exchange(capture_, {});
  if (capture.is_broken) return Finish(cudaErrorStreamCaptureInvalidated);
  graph = capture.graph;
  return Finish(cudaSuccess);
}

cudaError_t Runtime::RefuseInCapture(const char* call) {
  if (capture_.stream == nullptr) return cudaSuccess;
  capture_.is_broken = true;
  std::fprintf(stderr, "cuda double: %s while a stream records a graph\n", call);
  return Finish(cudaErrorStreamCaptureUnsupported);
}

cudaError_t Runtime::Replay(const Graph& graph, StreamState& stream) {
  for (const Graph::Node& node : graph.nodes) {
    const cudaError_t code = Enqueue(stream, node.name + " of a graph", node.work);
    if (code != cudaSuccess) return code;
  }
  return Finish(cudaSuccess);
}

}  // namespace sluice::cuda_double

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  if (mode != cudaStreamCaptureModeGlobal) {
    return runtime.Break(cudaErrorNotSupported,
                         "cudaStreamBeginCapture: only mode Global is modelled");
  }
  return runtime.BeginCapture(*runtime.Stream(stream));
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  Graph recorded;
  *graph = nullptr;
  const cudaError_t code = runtime.EndCapture(*runtime.Stream(stream), recorded);
  if (code == cudaSuccess) *graph = reinterpret_cast<cudaGraph_t>(new Graph(std::move(recorded)));
  return code;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  *status = runtime.IsCapturing(*runtime.Stream(stream)) ? cudaStreamCaptureStatusActive
                                                         : cudaStreamCaptureStatusNone;
  return runtime.Finish(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {  // NOLINT: CUDA's own type
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(GraphOf(graph)));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  const cudaError_t refused = runtime.RefuseInCapture("cudaGraphLaunch");
  if (refused != cudaSuccess) return refused;
  return runtime.Replay(GraphOf(graph), *runtime.Stream(stream));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete &GraphOf(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete &GraphOf(graph);
  return cudaSuccess;
}

}  // extern "C"
