// The ops launch and return, so a stream can record them as a graph and replay it; what a graph
// cannot hold is refused. On the software device and, the same text, on a real GPU.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_stream.h"
#include "kernels/ops/cast.h"
#include "tests/support/every_device.h"

namespace sluice::kernels::cuda {
namespace {

using testing::Tensor;

class GraphCaptureTest : public testing::EveryDevice {
 protected:
  cudaStream_t handle() { return CudaStream::From(stream()).handle(); }
};
INSTANTIATE_TEST_SUITE_P(Devices, GraphCaptureTest, ::testing::ValuesIn(testing::AllDevices()),
                         [](const auto& info) { return info.param.name; });

// x <- x + y, as a graph: nothing runs until it is launched, and then each time.
TEST_P(GraphCaptureTest, OpsAreRecordedAndReplayed) {
  const Tensor x({100}), y({100});
  Fill(stream(), x, 1.0);
  Fill(stream(), y, 3.0);
  Wait();
  ASSERT_EQ(cudaStreamBeginCapture(handle(), cudaStreamCaptureModeGlobal), cudaSuccess);
  Add(stream(), {.a = x, .b = y, .y = y});
  Fill(stream(), x, 2.0);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(handle(), &graph), cudaSuccess);
  Wait();
  EXPECT_EQ(x.At(99), 1);
  EXPECT_EQ(y.At(99), 3);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  for (int times = 1; times <= 3; ++times) {
    ASSERT_EQ(cudaGraphLaunch(executable, handle()), cudaSuccess);
    Wait();
    EXPECT_EQ(x.At(99), 2);
    EXPECT_EQ(y.At(99), 4 + 2 * (times - 1)) << times;
  }
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
}

TEST_P(GraphCaptureTest, SynchronisationAndAllocationBreakIt) {
  const auto capture = [&](auto call) {
    EXPECT_EQ(cudaStreamBeginCapture(handle(), cudaStreamCaptureModeGlobal), cudaSuccess);
    const cudaError_t code = call();
    cudaGetLastError();
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(handle(), &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
    cudaGetLastError();
    return code;
  };
  EXPECT_EQ(capture([&] { return cudaStreamSynchronize(handle()); }),
            cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(capture([&] { return cudaDeviceSynchronize(); }), cudaErrorStreamCaptureUnsupported);
  void* data = nullptr;
  EXPECT_EQ(capture([&] { return cudaMalloc(&data, 64); }), cudaErrorStreamCaptureUnsupported);
  // And afterwards all is as before.
  ASSERT_EQ(cudaMalloc(&data, 64), cudaSuccess);
  EXPECT_EQ(capture([&] { return cudaFree(data); }), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  Wait();
}

}  // namespace
}  // namespace sluice::kernels::cuda
