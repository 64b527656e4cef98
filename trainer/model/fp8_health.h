// How well a step in FP8 went, layer by layer: ranges and losses of the quantised operands, and the
// error of products against the same products in BF16 ("shadow" products, of the first microbatch).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/block_quantize.h"
#include "trainer/model/parameters.h"

namespace sluice::trainer {

struct Fp8LayerHealth {
  std::string name;  // of the weight; all experts of a layer are one
  kernels::QuantizationStats x, w, dy;  // w: each rank's own part, once for each replica
  // Sums of squares: of the difference to the BF16 product, and of that product.
  double y_error = 0, y_norm = 0, dx_error = 0, dx_norm = 0;

  // The larger relative error of the two products; infinity where one is not finite.
  double RelativeError() const;
};

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
