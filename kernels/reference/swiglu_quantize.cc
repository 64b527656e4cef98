// All of the values first, rounded to BF16, then their codes.
#include "kernels/reference/swiglu_quantize.h"

#include <algorithm>
#include <vector>

#include "kernels/reference/access.h"
#include "kernels/reference/block_quantize.h"
#include "kernels/reference/swiglu.h"

namespace sluice::kernels::reference {
namespace {

// A BF16 tensor of its own.
struct Values {
  explicit Values(const Shape& shape)
      : storage(static_cast<size_t>(shape.num_elements())),
        view(storage.data(), DType::kBF16, shape) {}
  void CopyTo(const TensorView& to) const {
    if (to.is_null()) return;
    for (int64_t r = 0; r < to.extent(0); ++r) {
      for (int64_t c = 0; c < to.extent(1); ++c) Set(to, Get(view, r, c), r, c);
    }
  }
  std::vector<BFloat16> storage;
  TensorView view;
};

}  // namespace

void SwigluQuantize(const SwigluQuantizeArgs& args) {
  const Values y({args.gate_up.extent(0), args.gate_up.extent(1) / 2});
  Swiglu({.gate_up = args.gate_up, .y = y.view});
  y.CopyTo(args.y);
  Quantize({.x = y.view,
            .rows = args.rows,
            .columns = args.columns,
            .offsets = args.offsets,
            .options = args.options});
}

void SwigluBackwardQuantize(const SwigluBackwardQuantizeArgs& args) {
  const int64_t width = args.dy.extent(1);
  const Values dgate_up({args.dy.extent(0), 2 * width});
  SwigluBackward({.dy = args.dy, .gate_up = args.gate_up, .dgate_up = dgate_up.view});
  dgate_up.CopyTo(args.dgate_up);
  std::vector<int32_t> bounds = {0};
  for (const int64_t first : {int64_t{0}, width}) {
    for (int64_t i = 0; i < NumTiles(width); ++i) {
      bounds.push_back(static_cast<int32_t>(first + std::min(width, (i + 1) * kQuantTile)));
    }
  }
  const Shape shape = {static_cast<int64_t>(bounds.size())};
  Quantize({.x = dgate_up.view,
            .rows = args.rows,
            .columns = args.columns,
            .tiles = ConstTensorView(bounds.data(), DType::kI32, shape),
            .offsets = args.offsets,
            .options = args.options});
}

}  // namespace sluice::kernels::reference
