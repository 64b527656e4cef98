#include "checkpoints/huggingface/tensor_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoints/huggingface/fp8_blocks.h"
#include "kernels/core/check.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

// The exponent is all ones. The loop without an exit is one that the compiler vectorises.
template <typename Word, Word kExponent>
int64_t FirstWith(std::span<const char> chunk) {
  const int64_t count = std::ssize(chunk) / static_cast<int64_t>(sizeof(Word));
  Word bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, chunk.data() + i * sizeof word, sizeof word);
    bad |= static_cast<Word>((word & kExponent) == kExponent);
  }
  if (bad == 0) return -1;
  for (int64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, chunk.data() + i * sizeof word, sizeof word);
    if ((word & kExponent) == kExponent) return i;
  }
  return -1;
}

}  // namespace

int64_t FirstNotFinite(DType dtype, std::span<const char> chunk) {
  if (dtype == DType::kF32) return FirstWith<uint32_t, 0x7f800000u>(chunk);
  if (dtype == DType::kBF16) return FirstWith<uint16_t, 0x7f80u>(chunk);
  if (dtype == DType::kE4M3) return FirstWith<uint8_t, 0x7fu>(chunk);  // NaN; there is no infinity
  return -1;
}

std::vector<float> ToFloats(DType dtype, std::span<const char> chunk) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << static_cast<int>(dtype);
  std::vector<float> values(chunk.size() / kernels::SizeOf(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(values.data(), chunk.data(), chunk.size());
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    kernels::BFloat16 value;
    std::memcpy(&value, chunk.data() + 2 * i, sizeof value);
    values[i] = kernels::ToFloat(value);
  }
  return values;
}

double Fp8Error(std::span<const char> codes, int64_t begin, int64_t columns,
                std::span<const float> scales) {
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(codes.data()),
                                       codes.size());
  std::vector<float> values(codes.size());
  DecodeFp8(bytes, begin, columns, scales, values.data());
  const int64_t across = NumBlocks(columns);
  double most = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t element = begin + static_cast<int64_t>(i);
    const double scale =
        scales[element / columns / kFp8Block * across + element % columns / kFp8Block];
    const double exact = kernels::ToFloat(kernels::E4M3{bytes[i]}) * scale;
    most = std::max(most, std::fabs(static_cast<double>(values[i]) - exact));
  }
  return most;
}

}  // namespace sluice::checkpoints
