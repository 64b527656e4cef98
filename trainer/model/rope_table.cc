#include "trainer/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/core/status_macros.h"

namespace sluice::trainer {
namespace {

double Mscale(double factor, double coefficient) {
  return factor <= 1 ? 1.0 : 0.1 * coefficient * std::log(factor) + 1.0;
}

// The pair whose wavelength makes `rotations` turns over the original context.
double CorrectionDim(double rotations, int dim, double theta, double original_positions) {
  return dim * std::log(original_positions / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(theta));
}

}  // namespace

std::vector<double> RopeFrequencies(double theta, int dim, const RopeScaling* scaling) {
  std::vector<double> frequencies(dim / 2);
  for (int i = 0; i < dim / 2; ++i) frequencies[i] = std::pow(theta, -2.0 * i / dim);
  if (scaling == nullptr) return frequencies;
  const double original = scaling->original_max_position_embeddings();
  const double low =
      std::max(std::floor(CorrectionDim(scaling->beta_fast(), dim, theta, original)), 0.0);
  double high =
      std::min(std::ceil(CorrectionDim(scaling->beta_slow(), dim, theta, original)), dim - 1.0);
  if (low == high) high += 0.001;
  for (int i = 0; i < dim / 2; ++i) {
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / scaling->factor() * ramp + frequencies[i] * (1 - ramp);
  }
  return frequencies;
}

double YarnSoftmaxFactor(const RopeScaling* scaling) {
  if (scaling == nullptr) return 1.0;
  const double mscale = Mscale(scaling->factor(), scaling->mscale_all_dim());
  return mscale * mscale;
}

double YarnRotationFactor(const RopeScaling* scaling) {
  if (scaling == nullptr) return 1.0;
  return Mscale(scaling->factor(), scaling->mscale()) /
         Mscale(scaling->factor(), scaling->mscale_all_dim());
}

absl::Status RopeTable::Allocate(kernels::DeviceContext& device, const ModelConfig& config, int dim,
                                 int64_t positions) {
  using kernels::DType;
  const RopeScaling* scaling = config.has_rope_scaling() ? &config.rope_scaling() : nullptr;
  const std::vector<double> frequencies = RopeFrequencies(config.rope_theta(), dim, scaling);
  const double factor = YarnRotationFactor(scaling);
  const int64_t half = dim / 2;
  const size_t bytes = static_cast<size_t>(positions * half) * sizeof(float);
  ASSIGN_OR_RETURN(storage_, device.Allocate(2 * bytes, kernels::MemoryTag::kParameters));
  cos_ = storage_.View(DType::kF32, {positions, half});
  sin_ = storage_.View(DType::kF32, {positions, half}, bytes);
  std::vector<float> cosines(positions * half), sines(positions * half);
  for (int64_t position = 0; position < positions; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      cosines[position * half + i] = static_cast<float>(factor * std::cos(angle));
      sines[position * half + i] = static_cast<float>(factor * std::sin(angle));
    }
  }
  auto& stream = device.stream(kernels::StreamRole::kCompute);
  device.Copy(kernels::ConstTensorView(cosines.data(), DType::kF32, cos_.shape()), cos_, stream);
  device.Copy(kernels::ConstTensorView(sines.data(), DType::kF32, sin_.shape()), sin_, stream);
  return stream.Synchronize();
}

}  // namespace sluice::trainer
