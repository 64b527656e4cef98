// The ops launch and return, so a stream can record them as a graph and replay it; what a graph
// cannot hold is refused. On the software device and, the same text, on a real GPU.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/cuda_stream.h"
#include "kernels/ops/adamw.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/ops/cast.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/rms_norm.h"
#include "kernels/ops/swiglu_quantize.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels::cuda {
namespace {

using testing::Same;
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

// What one layer and its update are made of: a norm, the quantiser, a product of codes by wgmma (or
// mma.sync), SwiGLU and its gradient as codes, attention, and the optimizer.
struct Layer {
  static constexpr int64_t kRows = 67, kIn = 144, kOut = 192;
  Layer()
      : x(Tensor::Random({kRows, kIn}, DType::kBF16, 1)),
        gain(Tensor::Random({kIn}, DType::kBF16, 2)),
        w(Tensor::Random({1, kOut, kIn}, DType::kBF16, 3)),
        gradient(Tensor::Random({kOut * kIn}, DType::kF32, 4)),
        master(Tensor::Random({kOut * kIn}, DType::kF32, 5)),
        m({kOut * kIn}),
        v({kOut * kIn}) {}
  static Tensor Codes(const Shape& shape) { return Tensor::Unwritten(shape, DType::kE4M3); }
  void Run(Stream& stream) const {
    RmsNorm(stream, {.x = x, .w = gain, .y = norm, .inverse_rms = inverse_rms});
    const QuantizedRows rows = {codes, scales};
    const QuantizedWeight weight = {w_codes, w_scales, w_transposed, w_transposed_scales, {}};
    Quantize(stream, {.x = norm, .rows = rows});
    QuantizeWeight(stream, {.w = w, .weight = weight});
    Fp8Matmul(stream, {rows, weight, Fp8Direction::kForward, {}, y});
    SwigluQuantize(stream, {.gate_up = y, .rows = {glu_codes, glu_scales}});
    SwigluBackwardQuantize(
        stream,
        {.dy = y.view().Columns(0, kOut / 2), .gate_up = y, .rows = {dglu_codes, dglu_scales}});
    Attention(stream, {.q = Part(0),
                       .k = Part(1),
                       .v = Part(2),
                       .starts = starts,
                       .o = o,
                       .log_sum_exp = log_sum_exp,
                       .scale = 0.125f});
    AdamW(stream, {.master = master,
                   .gradient = gradient,
                   .m = m,
                   .v = v,
                   .value = value,
                   .learning_rate = 0.01f,
                   .step = 1});
  }
  // One head of 64 columns.
  ConstTensorView Part(int64_t i) const {
    return y.view().Columns(64 * i, 64).Reshape({kRows, 1, 64});
  }
  std::vector<Tensor> Results() const {
    return {norm, inverse_rms, codes, y, glu_codes, dglu_codes, o, master, value};
  }

  Tensor x, gain, w, gradient, master, m, v;
  Tensor norm = Tensor::Unwritten({kRows, kIn}, DType::kBF16);
  Tensor inverse_rms = Tensor::Unwritten({kRows});
  Tensor codes = Codes({kRows, kIn}), scales = Tensor::Unwritten({kRows, 2});
  Tensor w_codes = Codes({1, kOut, kIn}), w_scales = Tensor::Unwritten({1, 2, 2});
  Tensor w_transposed = Codes({1, kIn, kOut}), w_transposed_scales = Tensor::Unwritten({1, 2, 2});
  Tensor y = Tensor::Unwritten({kRows, kOut}, DType::kBF16);
  Tensor glu_codes = Codes({kRows, kOut / 2}), glu_scales = Tensor::Unwritten({kRows, 1});
  Tensor dglu_codes = Codes({kRows, kOut}), dglu_scales = Tensor::Unwritten({kRows, 2});
  Tensor starts = Tensor::Of({0, 20, static_cast<int>(kRows)});
  Tensor o = Tensor::Unwritten({kRows, 1, 64}, DType::kBF16);
  Tensor log_sum_exp = Tensor::Unwritten({kRows, 1});
  Tensor value = Tensor::Unwritten({kOut * kIn}, DType::kBF16);
};

TEST_P(GraphCaptureTest, ALayerAndItsUpdateAreReplayedWithTheirBits) {
  const Layer direct, replayed;
  direct.Run(stream());
  Wait();
  ASSERT_EQ(cudaStreamBeginCapture(handle(), cudaStreamCaptureModeGlobal), cudaSuccess);
  replayed.Run(stream());
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(handle(), &graph), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  Wait();
  EXPECT_TRUE(Same(replayed.y, Layer().y)) << "ran while it was recorded";
  ASSERT_EQ(cudaGraphLaunch(executable, handle()), cudaSuccess);
  Wait();
  const std::vector<Tensor> wanted = direct.Results(), found = replayed.Results();
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(Same(found[i], wanted[i])) << i;
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
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
