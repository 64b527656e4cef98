// How well a step in FP8 went, layer by layer: ranges and losses of the quantised operands, and the
// error of products against the same products in BF16 ("shadow" products, of the first microbatch).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/block_quantize.h"
#include "trainer/model/parameters.h"

namespace sluice::trainer {

// A product in FP8 beside the same product in BF16: sums of squares.
struct ShadowProduct {
  double difference = 0, norm = 0;  // of the two, and of the one in BF16

  double RelativeError() const;  // infinity where a sum is not finite
};

struct Fp8LayerHealth {
  std::string name;                     // of the weight; all experts of a layer are one
  kernels::QuantizationStats x, w, dy;  // w: each rank's own part, once for each replica
  ShadowProduct y, dx, dw;              // dw: of kSampledColumns columns of x and of dy at most

  double RelativeError() const;  // the largest of the three
};

// Columns of each operand that the weight gradient's shadow has, at even distances; all of a
// narrower operand. So its cost and what is kept for it do not grow with the model's widths.
inline constexpr int64_t kSampledColumns = 256;

class Fp8Health {
 public:
  // The entry of a layer, made when it is first asked for; stays where it is.
  Fp8LayerHealth& LayerOf(const Parameter& weight);
  // Adds another rank's entries: sums, largest amax. Ascending by name afterwards.
  void Merge(const Fp8Health& other);
  const std::vector<std::unique_ptr<Fp8LayerHealth>>& layers() const { return layers_; }

  std::string Serialize() const;
  static absl::StatusOr<Fp8Health> Parse(const std::string& text);
  std::string Table() const;  // one line a layer, under a heading

 private:
  Fp8LayerHealth& Named(const std::string& name);
  std::vector<std::unique_ptr<Fp8LayerHealth>> layers_;
};

// "model.layers.3.mlp.experts.gate_proj.weight": the first named tensor, without the expert's
// number.
std::string Fp8LayerName(const Parameter& weight);

}  // namespace sluice::trainer
