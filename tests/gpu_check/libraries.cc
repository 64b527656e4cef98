// NVIDIA's libraries in place of our kernels (kernels/vendor), on a real GPU: dense products by
// cuBLASLt and attention's forward by cuDNN against ours. The software device cannot run them.
#include "kernels/vendor/libraries.h"

#include <cmath>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/matmul.h"
#include "tests/gpu_check/gpu_check.h"
#include "tests/support/attention_tensors.h"
#include "tests/support/every_device.h"
#include "tests/support/near.h"

namespace sluice::kernels {
namespace {

using testing::kF32Rounding;
using testing::Near;
using testing::Tensor;

// Counts what the library is given.
class CountedDense : public cuda::DenseLibrary {
 public:
  explicit CountedDense(std::unique_ptr<cuda::DenseLibrary> library)
      : library_(std::move(library)) {}
  bool Takes(const cuda::HopperMatmulArgs& args) const override { return library_->Takes(args); }
  absl::Status Multiply(const cuda::HopperMatmulArgs& args, cuda::CudaStream& stream) override {
    ++count_;
    return library_->Multiply(args, stream);
  }
  std::string Name() const override { return library_->Name(); }
  int count() const { return count_; }

 private:
  std::unique_ptr<cuda::DenseLibrary> library_;
  int count_ = 0;
};

class Libraries : public testing::EveryDevice {
 protected:
  void SetUp() override {
    EveryDevice::SetUp();
    if (testing::IsSoftwareDevice()) GTEST_SKIP() << "it cannot run closed libraries";
  }
  // `run` on a stream of its own.
  template <typename Run>
  void On(const cuda::CudaStreamOptions& options, const Run& run) {
    Wait();
    cuda::CudaStream other(stream().device(), options);
    run(other);
    const absl::Status status = other.Synchronize();
    ASSERT_TRUE(status.ok()) << status;
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, Libraries, ::testing::Values(testing::AllDevices().front()),
                         [](const auto& info) { return info.param.name; });

Tensor CodesOf(const Shape& shape, uint64_t seed) {
  const Tensor bits = Tensor::RandomIntegers(shape, DType::kU8, seed, 0, 255);
  const Tensor codes(shape, DType::kE4M3);
  for (int64_t i = 0; i < bits.num_elements(); ++i) {
    const auto b = static_cast<uint8_t>(bits.At(i));
    codes.SetAt(i, ToFloat(E4M3{(b & 0x7f) == 0x7f ? uint8_t{0x12} : b}));
  }
  return codes;
}
Tensor MagnitudesOf(const Tensor& codes) {
  const Tensor to(codes.shape(), codes.dtype());
  for (int64_t i = 0; i < codes.num_elements(); ++i) to.SetAt(i, std::abs(codes.At(i)));
  return to;
}

struct ProductCase {
  int64_t rows, in, out;
};

// Depths of 1, 4, 11 and 28.5 tiles: rows of b's scales that are full, and that are filled up. Both
// lose what an H100's tensor cores do (tests/cuda/fp8_agreement_test.cc), each in its own order.
TEST_P(Libraries, ProductsInFp8AreOurs) {
  auto created = vendor::CreateDenseLibrary();
  if (!created.ok()) GTEST_SKIP() << created.status();
  CountedDense library(*std::move(created));
  for (const ProductCase& c : {ProductCase{256, 128, 256},
                               {132, 512, 576},
                               {256, 1408, 2048},
                               {512, 3648, 2048},
                               {256, 2048, 10944}}) {
    const Tensor x = CodesOf({c.rows, c.in}, 1), w = CodesOf({1, c.out, c.in}, 2);
    const Tensor of_x = Tensor::Random({c.rows, NumTiles(c.in)}, DType::kF32, 3, 0.25, 2);
    const Tensor of_w =
        Tensor::Random({1, NumTiles(c.out), NumTiles(c.in)}, DType::kF32, 4, 0.25, 2);
    const Tensor x_magnitude = MagnitudesOf(x), w_magnitude = MagnitudesOf(w);
    const Tensor found({c.rows, c.out}), wanted({c.rows, c.out}), magnitude({c.rows, c.out});
    const auto product = [&](Stream& stream, const Tensor& a, const Tensor& b, const Tensor& y) {
      Fp8Matmul(stream, {.a = {a, of_x}, .w = {b, of_w, {}, {}, {}}, .c = y});
    };
    On({.dense = &library}, [&](Stream& s) { product(s, x, w, found); });
    On({}, [&](Stream& s) { product(s, x, w, wanted); });
    On({}, [&](Stream& s) { product(s, x_magnitude, w_magnitude, magnitude); });
    EXPECT_TRUE(
        Near(found, wanted, {.magnitude = &magnitude, .magnitude_factor = 2 * 4 * 34 * 0x1p-13}))
        << c.rows << " x " << c.out << " x " << c.in;
    int64_t others = 0;
    for (int64_t i = 0; i < found.num_elements(); ++i) others += found.At(i) != wanted.At(i);
    std::printf("fp8 %d x %d x %d: %d of %d numbers are others\n", static_cast<int>(c.rows),
                static_cast<int>(c.out), static_cast<int>(c.in), static_cast<int>(others),
                static_cast<int>(found.num_elements()));
  }
  EXPECT_EQ(library.count(), 5);
}

// Forward, and a gradient of a weight that is added to, of operands with gaps between their rows.
TEST_P(Libraries, ProductsInBF16AreOurs) {
  auto created = vendor::CreateDenseLibrary();
  if (!created.ok()) GTEST_SKIP() << created.status();
  CountedDense library(*std::move(created));
  constexpr int64_t kRows = 264, kIn = 200, kOut = 328;
  const Tensor x = Tensor::Random({kRows, kIn}, DType::kBF16, 1, -1, 1, 8);
  const Tensor w = Tensor::Random({kOut, kIn}, DType::kBF16, 2);
  const Tensor dy = Tensor::Random({kRows, kOut}, DType::kBF16, 3, -1, 1, 8);
  const Tensor start = Tensor::Random({kOut, kIn}, DType::kF32, 4);
  const Tensor dw = start.Clone(), dw_wanted = start.Clone();
  const Tensor y({kRows, kOut}, DType::kF32), y_wanted({kRows, kOut}, DType::kF32);
  const auto products = [&](Stream& s, const Tensor& to_y, const Tensor& to_dw) {
    Matmul(s, {.a = x, .b = w, .c = to_y, .transpose_b = true});
    Matmul(s, {.a = dy, .b = x, .c = to_dw, .transpose_a = true, .accumulate = true});
  };
  On({.dense = &library}, [&](Stream& s) { products(s, y, dw); });
  On({}, [&](Stream& s) { products(s, y_wanted, dw_wanted); });
  EXPECT_EQ(library.count(), 2);
  // No term is above 1, and each sum has one rounding a term, on either side.
  EXPECT_TRUE(Near(y, y_wanted, {.absolute = 2.0 * kIn * kIn * kF32Rounding}));
  EXPECT_TRUE(Near(dw, dw_wanted, {.absolute = 2.0 * (kRows + 1) * (kRows + 1) * kF32Rounding}));
}

struct HeadCase {
  int64_t sequences, tokens, heads, qk, v;
};

// Weights are rounded to BF16 on both sides (2^-9 of each, and they add up to 1), and so is the
// result; values are at most 1.
TEST_P(Libraries, AttentionsForwardIsOurs) {
  auto created = vendor::CreateAttentionLibrary();
  if (!created.ok()) GTEST_SKIP() << created.status();
  for (const HeadCase& c : {HeadCase{1, 256, 4, 64, 64},
                            {2, 320, 4, 128, 128},
                            {2, 256, 2, 192, 128},
                            {3, 128, 2, 48, 32}}) {
    testing::AttentionTensors t;
    const int64_t tokens = c.sequences * c.tokens;
    t.starts = Tensor({c.sequences + 1}, DType::kI32);
    for (int64_t s = 0; s <= c.sequences; ++s) {
      t.starts.SetAt(s, static_cast<double>(s * c.tokens));
    }
    t.q = Tensor::Random({tokens, c.heads, c.qk}, DType::kBF16, 1, -2, 2, 8);
    t.k = Tensor::Random({tokens, c.heads, c.qk}, DType::kBF16, 2, -2, 2);
    t.v = Tensor::Random({tokens, c.heads, c.v}, DType::kBF16, 3, -1, 1, 64);
    t.o = Tensor({tokens, c.heads, c.v}, DType::kBF16);
    t.log_sum_exp = Tensor({tokens, c.heads});
    t.scale = 1 / std::sqrt(static_cast<float>(c.qk));
    testing::AttentionTensors by_library = t;
    by_library.o = Tensor({tokens, c.heads, c.v}, DType::kBF16);
    by_library.log_sum_exp = Tensor({tokens, c.heads});
    AttentionArgs args = by_library.Forward();
    args.sequence_length = c.tokens;
    EXPECT_TRUE((*created)->Takes(args));
    SCOPED_TRACE(::testing::Message() << c.qk << ", " << c.v << ", " << c.sequences);
    On({.attention = created->get()}, [&](Stream& s) { Attention(s, args); });
    On({}, [&](Stream& s) { Attention(s, t.Forward()); });
    EXPECT_TRUE(Near(by_library.o, t.o, {.absolute = 2 * 0x1p-9, .relative = 0x1p-8}));
    EXPECT_TRUE(Near(by_library.log_sum_exp, t.log_sum_exp, {.absolute = 1e-4}));
    std::printf("attention %d, %d: done\n", static_cast<int>(c.qk), static_cast<int>(c.v));
  }
}

}  // namespace
}  // namespace sluice::kernels
