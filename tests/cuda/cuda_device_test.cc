// The CUDA DeviceContext: memory, copies, and the order between its streams.
#include "kernels/cuda/cuda_device.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/ops/block_quantize.h"
#include "kernels/ops/cast.h"

namespace sluice::kernels {
namespace {

// What the software device offers beside CUDA's functions; null on a real one.
template <typename F>
F OfTheDouble(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto reset = OfTheDouble<void (*)()>("cuda_double_reset")) reset();
    auto created = DeviceContext::Create({.type = DeviceType::kCuda});
    ASSERT_TRUE(created.ok()) << created.status();
    device_ = *std::move(created);
  }
  void TearDown() override {
    device_.reset();
    if (const auto reset = OfTheDouble<void (*)()>("cuda_double_reset")) reset();
  }
  Stream& compute() { return device_->stream(StreamRole::kCompute); }
  Stream& copies() { return device_->stream(StreamRole::kCopy); }
  Buffer Allocate(size_t bytes) {
    auto buffer = device_->Allocate(bytes, MemoryTag::kScratch);
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }
  static TensorView OnHost(std::vector<float>& values) {
    return TensorView(values.data(), DType::kF32, {static_cast<int64_t>(values.size())});
  }

  std::unique_ptr<DeviceContext> device_;
};

TEST_F(CudaDeviceTest, MemoryIsZeroAndCopiesGoBothWays) {
  const Buffer buffer = Allocate(4 * 100);
  std::vector<float> values(100, 7.0f);
  device_->Copy(buffer.View(DType::kF32, {100}), OnHost(values), compute());
  ASSERT_TRUE(compute().Synchronize().ok());
  for (float value : values) EXPECT_EQ(value, 0.0f);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  device_->Copy(OnHost(values), buffer.View(DType::kF32, {100}), compute());
  std::vector<float> back(60);
  // Rows of 6 out of rows of 10.
  const TensorView rows(buffer.View(DType::kF32, {100}).raw_mutable_data(), DType::kF32, {10, 6},
                        device_->id(), 10);
  device_->Copy(rows, TensorView(back.data(), DType::kF32, {10, 6}), compute());
  ASSERT_TRUE(compute().Synchronize().ok());
  for (size_t i = 0; i < 60; ++i) EXPECT_EQ(back[i], static_cast<float>(i / 6 * 10 + i % 6));
}

TEST_F(CudaDeviceTest, AnEventOrdersStreams) {
  const Buffer buffer = Allocate(4 * 1000);
  const TensorView x = buffer.View(DType::kF32, {1000});
  const auto filled = device_->CreateEvent();
  Fill(compute(), x, 3);
  compute().Record(*filled);
  copies().Wait(*filled);
  std::vector<float> values(1000);
  device_->Copy(x, OnHost(values), copies());
  ASSERT_TRUE(copies().Synchronize().ok());
  for (float value : values) ASSERT_EQ(value, 3.0f);
  EXPECT_TRUE(compute().Synchronize().ok());
}

// Without the event the software device reports the pair, whichever ran first.
TEST_F(CudaDeviceTest, AForgottenWaitIsReported) {
  const auto report = OfTheDouble<const char* (*)()>("cuda_double_report");
  if (report == nullptr) GTEST_SKIP() << "a real GPU does not tell";
  const Buffer buffer = Allocate(4 * 1000);
  const TensorView x = buffer.View(DType::kF32, {1000});
  Fill(compute(), x, 3);
  std::vector<float> values(1000);
  device_->Copy(x, OnHost(values), copies());
  const bool is_ok = copies().Synchronize().ok() && compute().Synchronize().ok();
  EXPECT_FALSE(is_ok);
  EXPECT_NE(std::string(report()).find("no stream, event or synchronisation orders"),
            std::string::npos)
      << report();
}

TEST_F(CudaDeviceTest, AKernelsErrorComesOutOfSynchronize) {
  const auto report = OfTheDouble<const char* (*)()>("cuda_double_report");
  if (report == nullptr) GTEST_SKIP() << "would break the context of a real GPU";
  const Buffer buffer = Allocate(4 * 10);
  const TensorView too_long(buffer.View(DType::kF32, {10}).raw_mutable_data(), DType::kF32, {11},
                            device_->id());
  Fill(compute(), too_long, 1);
  const absl::Status status = compute().Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(std::string(report()).find("4 past the end of an allocation of 40 bytes"),
            std::string::npos)
      << report();
  EXPECT_NE(std::string(report()).find("cast.cu:"), std::string::npos) << report();
}

// What the host was to compute from a failed stream's tensors is left out: tile bounds that never
// arrived would be taken for our own mistake.
TEST_F(CudaDeviceTest, TheHostsOpsLeaveAFailedStreamAlone) {
  if (OfTheDouble<void (*)()>("cuda_double_reset") == nullptr) {
    GTEST_SKIP() << "would break the context of a real GPU";
  }
  const Buffer buffer = Allocate(4096);
  const auto view = [&](DType dtype, const Shape& shape) { return buffer.View(dtype, shape); };
  QuantizationStats stats;
  const QuantizationStatsArgs args = {
      .x = view(DType::kBF16, {2, 16}),
      .rows = {.codes = view(DType::kE4M3, {2, 16}), .scales = view(DType::kF32, {2, 1})},
      .stats = &stats};
  AddQuantizationStats(compute(), args);
  EXPECT_EQ(stats.count, 32);
  const TensorView too_long(view(DType::kF32, {1024}).raw_mutable_data(), DType::kF32, {1025},
                            device_->id());
  Fill(compute(), too_long, 1);
  QuantizationStatsArgs with_tiles = args;
  with_tiles.tiles = view(DType::kI32, {2});
  AddQuantizationStats(compute(), with_tiles);
  EXPECT_EQ(stats.count, 32);
  EXPECT_EQ(compute().Synchronize().code(), absl::StatusCode::kInternal);
}

TEST_F(CudaDeviceTest, OutOfMemoryCarriesTheTable) {
  auto limited =
      DeviceContext::Create({.type = DeviceType::kCuda, .memory_limit_bytes = size_t{1} << 20});
  ASSERT_TRUE(limited.ok());
  const auto buffer = (*limited)->Allocate(size_t{2} << 20, MemoryTag::kScratch);
  EXPECT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace sluice::kernels
