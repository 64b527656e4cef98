#include "tests/support/near.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sluice::testing {

double OneUlp(kernels::DType dtype) {
  if (dtype == kernels::DType::kBF16) return 0x1p-7;
  return dtype == kernels::DType::kF64 ? 0x1p-52 : 0x1p-23;
}

::testing::AssertionResult Near(const Tensor& actual, const Tensor& expected, const Bound& bound) {
  if (actual.shape() != expected.shape()) {
    return ::testing::AssertionFailure()
           << "shape " << actual.shape() << ", wanted " << expected.shape();
  }
  int64_t first_bad = -1, num_bad = 0;
  double worst_share = 0;
  const auto allowed = [&](int64_t i) {
    const double magnitude =
        bound.magnitude == nullptr ? 0.0 : bound.magnitude_factor * bound.magnitude->At(i);
    return bound.absolute + bound.relative * std::abs(expected.At(i)) + magnitude;
  };
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    const double found = actual.At(i), wanted = expected.At(i);
    if (found == wanted || (std::isnan(found) && std::isnan(wanted))) continue;
    const double error = std::abs(found - wanted), share = error / allowed(i);
    if (share <= 1.0 && std::isfinite(error)) {
      worst_share = std::max(worst_share, share);
      continue;
    }
    worst_share = std::isfinite(share) ? std::max(worst_share, share) : share;
    if (num_bad++ == 0) first_bad = i;
  }
  if (num_bad == 0) {
    return ::testing::AssertionSuccess() << "used " << 100 * worst_share << "% of the bound";
  }
  return ::testing::AssertionFailure()
         << "first bad element " << first_bad << " of " << expected.shape() << ": found "
         << actual.At(first_bad) << ", wanted " << expected.At(first_bad) << " within "
         << allowed(first_bad) << "; " << num_bad << " bad of " << expected.num_elements()
         << "; at worst " << 100 * worst_share << "% of the bound";
}

::testing::AssertionResult Same(const Tensor& actual, const Tensor& expected) {
  if (BitEqual(actual, expected)) return ::testing::AssertionSuccess();
  if (actual.shape() != expected.shape() || actual.dtype() != expected.dtype()) {
    return ::testing::AssertionFailure()
           << "found " << actual.shape() << " " << NameOf(actual.dtype()).data() << ", wanted "
           << expected.shape() << " " << NameOf(expected.dtype()).data();
  }
  for (int64_t i = 0; i < expected.num_elements(); ++i) {
    const double found = actual.At(i), wanted = expected.At(i);
    if (std::memcmp(&found, &wanted, sizeof found) == 0) continue;
    return ::testing::AssertionFailure()
           << "first differing element " << i << " of " << expected.shape() << ": found " << found
           << ", wanted " << wanted << ", difference " << found - wanted;
  }
  return ::testing::AssertionFailure() << "NaN of different bits";
}

}  // namespace sluice::testing
