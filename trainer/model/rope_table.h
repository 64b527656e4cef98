// Angles of rotary position embedding, with YaRN's stretched frequencies (Peng et al., arXiv
// 2309.00071; constants as in DeepSeek-V3 section 4.3).   P positions, D rotated width
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "kernels/core/device.h"
#include "trainer/model/model.pb.h"

namespace sluice::trainer {

// The D / 2 frequencies of the pairs, in FP64.
std::vector<double> RopeFrequencies(double theta, int dim, const RopeScaling* scaling);
// What softmax's scale is multiplied with: mscale(factor, mscale_all_dim)^2; 1 without YaRN.
double YarnSoftmaxFactor(const RopeScaling* scaling);
// What cos and sin are multiplied with: mscale(factor, mscale) / mscale(factor, mscale_all_dim); 1
// without YaRN.
double YarnRotationFactor(const RopeScaling* scaling);

class RopeTable {
 public:
  absl::Status Allocate(kernels::DeviceContext& device, const ModelConfig& config, int dim,
                        int64_t positions);
  kernels::ConstTensorView cos() const { return cos_; }  // [P, D / 2] f32
  kernels::ConstTensorView sin() const { return sin_; }

 private:
  kernels::Buffer storage_;
  kernels::TensorView cos_, sin_;
};

}  // namespace sluice::trainer
