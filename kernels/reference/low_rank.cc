#include "kernels/reference/low_rank.h"

#include <vector>

#include "kernels/core/philox.h"
#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void ScaledAdd(const ScaledAddArgs& args) {
  for (int64_t r = 0; r < args.x.extent(0); ++r) {
    for (int64_t c = 0; c < args.x.extent(1); ++c) {
      const double old = args.accumulate ? Get(args.y, r, c) : 0.0;
      Set(args.y, old + static_cast<double>(args.scale) * Get(args.x, r, c), r, c);
    }
  }
}

void Dropout(const DropoutArgs& args) {
  const int64_t width = args.x.extent(1);
  for (int64_t r = 0; r < args.x.extent(0); ++r) {
    for (int64_t c = 0; c < width; ++c) {
      const int64_t id = args.row_ids.data<int64_t>()[r];
      const auto words =
          Philox(args.key, static_cast<uint64_t>(id * ((width + 3) / 4) + c / 4), args.row_stream);
      const bool dropped = UniformFromBits(words[c % 4]) < args.rate;
      Set(args.y, dropped ? 0.0 : Get(args.x, r, c) / (1.0 - args.rate), r, c);
    }
  }
}

void LoraLinear(const LoraLinearArgs& args) {
  const int64_t rows = args.x.extent(0), inputs = args.w.extent(1), outputs = args.w.extent(0);
  const int64_t rank = args.a.extent(0);
  std::vector<double> whole(outputs * inputs);  // W + scale * B A
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < inputs; ++i) {
      double product = 0;
      for (int64_t k = 0; k < rank; ++k) product += Get(args.b, o, k) * Get(args.a, k, i);
      whole[o * inputs + i] = Get(args.w, o, i) + args.scale * product;
    }
  }
  std::vector<double> d_whole(outputs * inputs, 0.0);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t o = 0; o < outputs; ++o) {
      double y = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        y += whole[o * inputs + i] * Get(args.x, t, i);
        d_whole[o * inputs + i] += Get(args.dy, t, o) * Get(args.x, t, i);
      }
      Set(args.y, y, t, o);
    }
    for (int64_t i = 0; i < inputs; ++i) {
      double dx = 0;
      for (int64_t o = 0; o < outputs; ++o) dx += whole[o * inputs + i] * Get(args.dy, t, o);
      Set(args.dx, dx, t, i);
    }
  }
  for (int64_t k = 0; k < rank; ++k) {
    for (int64_t i = 0; i < inputs; ++i) {
      double da = 0;
      for (int64_t o = 0; o < outputs; ++o) da += Get(args.b, o, k) * d_whole[o * inputs + i];
      Set(args.da, args.scale * da, k, i);
    }
    for (int64_t o = 0; o < outputs; ++o) {
      double db = 0;
      for (int64_t i = 0; i < inputs; ++i) db += Get(args.a, k, i) * d_whole[o * inputs + i];
      Set(args.db, args.scale * db, o, k);
    }
  }
}

}  // namespace sluice::kernels::reference
