#include "tests/cuda_double/exec/tensor_sum.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice::cuda_double {
namespace {

constexpr int kNoExponent = std::numeric_limits<int>::min();

struct Adder {
  int bits_below;       // the largest exponent; what is further down is cut
  int fraction_bits;    // of the result
  int lowest_exponent;  // of an operand
};
constexpr Adder kSixteenBits = {25, 23, -126};
constexpr Adder kEightBits = {13, 13, -6};

double CutToward0(double x, double unit) { return std::trunc(x / unit) * unit; }

int ExponentOf(double x, int lowest) {
  return x == 0 ? kNoExponent : std::max(std::ilogb(x), lowest);
}

double Exact(double sum, const float* a, const float* b, size_t k) {
  for (size_t i = 0; i < k; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

double Truncated(double sum, const float* a, const float* b, size_t k, const Adder& adder) {
  int largest = ExponentOf(sum, -126);
  for (size_t i = 0; i < k; ++i) {
    if (a[i] == 0 || b[i] == 0) continue;
    largest = std::max(
        largest, ExponentOf(a[i], adder.lowest_exponent) + ExponentOf(b[i], adder.lowest_exponent));
  }
  if (largest == kNoExponent) return sum;
  const double unit = std::ldexp(1.0, largest - adder.bits_below);
  double total = CutToward0(sum, unit);
  for (size_t i = 0; i < k; ++i) total += CutToward0(static_cast<double>(a[i]) * b[i], unit);
  if (total == 0) return 0;
  return CutToward0(total, std::ldexp(1.0, std::ilogb(total) - adder.fraction_bits));
}

// Codes become FP16, in which none is subnormal, and pairs of them fill the registers of two
// products.
double InTwoHalves(const float* a, const float* b, size_t k) {
  constexpr size_t kMost = 16;
  double sum = 0;
  for (const size_t first : {0, 2}) {
    float some_a[kMost], some_b[kMost];
    size_t n = 0;
    for (size_t i = first; i < k && n < kMost; i += i % 2 == 0 ? 1 : 3) {
      some_a[n] = a[i];
      some_b[n++] = b[i];
    }
    sum = Truncated(sum, some_a, some_b, n, kSixteenBits);
  }
  return sum;
}

}  // namespace

float TensorSum(float sum, const float* a, const float* b, size_t k, Accumulator accumulator,
                TensorInstruction instruction) {
  const double exact = Exact(sum, a, b, k);
  if (accumulator == Accumulator::kExact || !std::isfinite(exact)) return static_cast<float>(exact);
  switch (instruction) {
    case TensorInstruction::kBF16:
      return static_cast<float>(Truncated(sum, a, b, k, kSixteenBits));
    case TensorInstruction::kE4M3ByWarpgroup:
      return static_cast<float>(Truncated(sum, a, b, k, kEightBits));
    case TensorInstruction::kE4M3ByWarp:
      return static_cast<float>(sum + InTwoHalves(a, b, k));
  }
  return 0;
}

}  // namespace sluice::cuda_double
