// What this device computes from fixed inputs, written down: golden/NAME.bin holds a line "golden 1
// NAME DTYPE SHAPE CRC32C" and the elements. With --against, compared with another run's.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "kernels/core/crc32c.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/block_quantize.h"
#include "kernels/ops/fp8_matmul.h"
#include "kernels/ops/matmul.h"
#include "tests/gpu_check/gpu_check.h"
#include "tests/support/attention_tensors.h"
#include "tests/support/every_device.h"

namespace sluice::kernels {
namespace {

using testing::Tensor;

class GoldenVectors : public testing::EveryDevice {
 protected:
  void Keep(const std::string& name, const Tensor& tensor) {
    Wait();
    ASSERT_TRUE(tensor.view().is_contiguous());
    const std::string file_name = GetParam().name + "_" + name;  // cuda_..., cuda_mma_...
    const std::string bytes(static_cast<const char*>(tensor.view().raw_data()),
                            tensor.view().bytes());
    char crc[16];
    std::snprintf(crc, sizeof(crc), "%08x", Crc32c(bytes.data(), bytes.size()));
    const std::string head = "golden 1 " + file_name + " " + std::string(NameOf(tensor.dtype())) +
                             " " + tensor.shape().ToString() + " " + crc + "\n";
    const std::string file = "/golden/" + file_name + ".bin";
    std::ofstream(testing::ResultsFolder() + file, std::ios::binary) << head << bytes;
    std::printf("%s", head.c_str());
    if (!testing::AgainstFolder().empty()) Compare(testing::AgainstFolder() + file, tensor);
  }

 private:
  // Other devices sum inside a tensor core in another way: differences are printed, not judged.
  static void Compare(const std::string& path, const Tensor& tensor) {
    std::ifstream in(path, std::ios::binary);
    if (!in) {
      std::printf("  nothing to compare with\n");
      return;
    }
    std::string head;
    std::getline(in, head);
    const std::string bytes(std::istreambuf_iterator<char>(in), {});
    ASSERT_EQ(bytes.size(), tensor.view().bytes()) << path;
    const Tensor other(tensor.shape(), tensor.dtype());
    std::memcpy(other.view().raw_mutable_data(), bytes.data(), bytes.size());
    double worst = 0, largest = 0;
    int64_t differ = 0;
    for (int64_t i = 0; i < tensor.num_elements(); ++i) {
      differ += tensor.At(i) != other.At(i) ? 1 : 0;
      worst = std::max(worst, std::abs(tensor.At(i) - other.At(i)));
      largest = std::max(largest, std::abs(other.At(i)));
    }
    std::printf("  %ld of %ld elements differ, by %.3g at most; the largest is %.3g\n",
                static_cast<long>(differ), static_cast<long>(tensor.num_elements()), worst,
                largest);
  }
};
INSTANTIATE_ON_EVERY_DEVICE(GoldenVectors);

Tensor Random(const Shape& shape, uint64_t seed) {
  return Tensor::Random(shape, DType::kBF16, seed);
}

TEST_P(GoldenVectors, ProductInBF16) {
  constexpr int64_t kRows = 70, kDepth = 192, kColumns = 136;
  const Tensor a = Random({kRows, kDepth}, 1), w = Random({kColumns, kDepth}, 2);
  const Tensor c({kRows, kColumns});
  Matmul(stream(), {.a = a, .b = w, .c = c, .transpose_b = true});
  Keep("matmul_bf16", c);
}

TEST_P(GoldenVectors, ProductInFp8AndItsCodes) {
  constexpr int64_t kRows = 70, kDepth = 256, kColumns = 144;
  const Tensor x = Random({kRows, kDepth}, 3), w = Random({1, kColumns, kDepth}, 4);
  const Tensor codes({kRows, kDepth}, DType::kE4M3), scales({kRows, NumTiles(kDepth)});
  Quantize(stream(), {.x = x, .rows = {codes, scales}});
  Keep("quantize_codes", codes);
  Keep("quantize_scales", scales);
  const int64_t row_blocks = NumTiles(kColumns), blocks = NumTiles(kDepth);
  const Tensor weight({1, kColumns, kDepth}, DType::kE4M3), weight_scales({1, row_blocks, blocks});
  const Tensor transposed({1, kDepth, kColumns}, DType::kE4M3);
  const Tensor transposed_scales({1, blocks, row_blocks});
  const QuantizedWeight quantized = {weight, weight_scales, transposed, transposed_scales, {}};
  QuantizeWeight(stream(), {.w = w, .weight = quantized});
  const Tensor c({kRows, kColumns});
  Fp8Matmul(stream(), {.a = {codes, scales}, .w = quantized, .c = c});
  Keep("matmul_fp8", c);
}

TEST_P(GoldenVectors, AttentionAndItsGradients) {
  constexpr int64_t kTokens = 80, kHeads = 2, kWidth = 64;
  const Shape shape = {kTokens, kHeads, kWidth};
  testing::AttentionTensors t;
  t.q = Random(shape, 5), t.k = Random(shape, 6), t.v = Random(shape, 7), t.dout = Random(shape, 8);
  t.starts = Tensor::Of({0, 33, static_cast<int>(kTokens)});
  t.o = Tensor(shape, DType::kBF16), t.log_sum_exp = Tensor({kTokens, kHeads});
  const auto bytes = static_cast<int64_t>(
      AttentionScratchBytes(stream(), kTokens, kHeads, kHeads, kWidth, kWidth));
  t.scratch = Tensor({bytes}, DType::kU8);
  t.scale = 0.125f;
  Attention(stream(), t.Forward());
  Keep("attention_o", t.o);
  t.dq = Tensor(shape, DType::kBF16), t.dk = Tensor(shape, DType::kBF16);
  t.dv = Tensor(shape, DType::kBF16);
  AttentionBackward(stream(), t.Backward());
  Keep("attention_dq", t.dq);
  Keep("attention_dk", t.dk);
  Keep("attention_dv", t.dv);
}

}  // namespace
}  // namespace sluice::kernels
