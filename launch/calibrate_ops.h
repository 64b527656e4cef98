// Times of the ops that a model's step is made of, on one rank.   T tokens of a microbatch
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/ops/matmul.h"
#include "trainer/model/model.pb.h"

namespace sluice::launch {

double WallSeconds();

struct OpShapes {
  trainer::ModelConfig model;  // resolved
  int64_t tokens = 0, sequence_length = 0;
};

// All products of one forward of the model, each as often as it occurs.
struct ProductTimes {
  double flops = 0;
  double forward_bytes = 0, weight_bytes = 0;  // as parallel/plan/layout.cc counts them
  double forward_seconds = 0;                  // mean of forward and input gradients
  double weight_seconds = 0;
  // r with flops / r + forward_bytes / memory_rate = forward_seconds; where memory alone would take
  // longer (it was in caches), flops / forward_seconds.
  double Rate(double memory_rate) const;
  // f with f (flops / rate + weight_bytes / memory_rate) = weight_seconds.
  double WeightFactor(double rate, double memory_rate) const;
};

struct AttentionTimes {
  double flops = 0;  // causal, of the forward
  double forward_seconds = 0, backward_seconds = 0;
};

class OpTimer {
 public:
  // Extents are cut so that a large model's fit a small machine: 16 experts, 32768 columns.
  OpTimer(const OpShapes& shapes, kernels::DeviceContext& device);

  absl::StatusOr<ProductTimes> Products(kernels::DType dtype);
  absl::StatusOr<AttentionTimes> Attention();
  absl::StatusOr<double> CopyRate();  // bytes/s
  // Norms, rotation, SwiGLU, gate, rows in order, cross-entropy: the bytes that
  // trainer/model/plan_work.cc counts for them, over their time.
  absl::StatusOr<double> ElementRate();
  absl::StatusOr<double> OpSeconds();
  // Of arrays that caches do not hold:
  absl::StatusOr<double> AdamRate();   // parameters/s, sum of squares included
  absl::StatusOr<double> PackRate();   // parameters/s, both layouts
  absl::StatusOr<double> ClearRate();  // FP32 gradients/s

 private:
  struct Product {
    double times = 1;                             // in a forward
    int64_t rows = 0, k = 0, n = 0, experts = 0;  // experts 0: dense
  };
  struct Operands {
    kernels::TensorView x, y, dw;  // [rows, k], [rows, n], [experts, n, k] f32
    kernels::PackedMatrix forward, backward;
  };
  struct Elements {
    double times = 1, elements = 0;
    std::function<void()> run;
  };
  std::vector<Product> ListProducts() const;
  absl::Status AddProduct(const Product& product, kernels::DType dtype, ProductTimes& times);
  absl::StatusOr<Operands> TakeOperands(const Product& product, kernels::DType dtype);
  // How many times so many bytes are more than caches hold.
  static int64_t CopiesOf(double bytes);
  // Zeros; valid until GiveBack.
  absl::StatusOr<kernels::TensorView> Take(kernels::DType dtype, kernels::Shape shape);
  void GiveBack();
  absl::Status AddNorms(std::vector<Elements>& list);
  absl::Status AddRotation(std::vector<Elements>& list);
  absl::Status AddExperts(std::vector<Elements>& list);
  absl::Status AddHead(std::vector<Elements>& list);
  // Seconds of one call: lower quartile of samples.
  double Time(const std::function<void()>& run);

  const OpShapes shapes_;
  kernels::DeviceContext& device_;
  kernels::Stream& stream_;
  std::vector<kernels::Buffer> buffers_;  // of all measurements so far
  size_t block_ = 0, used_ = 0;           // where the next tensor of the one at hand lies
  size_t taken_ = 0;                      // bytes of its tensors
};

}  // namespace sluice::launch
