#include "kernels/reference/cast.h"

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void Cast(const CastArgs& args) {
  const int64_t width = args.from.shape().elements_per_row();
  const int64_t rows = width == 0 ? 0 : args.from.num_elements() / width;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; ++c) Set(args.to, Get(args.from, r, c), r, c);
  }
}

void Fill(TensorView to, double value) {
  for (int64_t i = 0; i < to.num_elements(); ++i) {
    switch (to.dtype()) {
      case DType::kI32:
        to.mutable_data<int32_t>()[i] = static_cast<int32_t>(value);
        break;
      case DType::kI64:
        to.mutable_data<int64_t>()[i] = static_cast<int64_t>(value);
        break;
      case DType::kU8:
        to.mutable_data<uint8_t>()[i] = static_cast<uint8_t>(value);
        break;
      default:
        Set(to, value, 0, i);
    }
  }
}

void Add(const AddArgs& args) {
  for (int64_t i = 0; i < args.y.num_elements(); ++i) {
    Set(args.y, Get(args.a, 0, i) + Get(args.b, 0, i), 0, i);
  }
}

}  // namespace sluice::kernels::reference
