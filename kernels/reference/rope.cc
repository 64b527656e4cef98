#include "kernels/reference/rope.h"

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void Rope(const RopeArgs& args) {
  const int64_t half = args.cos.extent(1);
  for (int64_t t = 0; t < args.positions.extent(0); ++t) {
    const int64_t position = Index(args.positions, t);
    for (int64_t a = 0; a < args.num_heads; ++a) {
      for (int64_t i = 0; i < half; ++i) {
        const bool interleaved = args.layout == RopeLayout::kInterleaved;
        const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
        const int64_t from = a * args.head_stride, to = a * args.y_head_stride;
        const double x0 = Get(args.x, t, from + first), x1 = Get(args.x, t, from + second);
        const double c = Get(args.cos, position, i);
        const double s = args.inverse ? -Get(args.sin, position, i) : Get(args.sin, position, i);
        Set(args.y, x0 * c - x1 * s, t, to + first);
        Set(args.y, x0 * s + x1 * c, t, to + second);
      }
    }
  }
}

void SumHeads(const SumHeadsArgs& args) {
  for (int64_t t = 0; t < args.y.extent(0); ++t) {
    for (int64_t d = 0; d < args.y.extent(1); ++d) {
      double sum = 0;
      for (int64_t a = 0; a < args.num_heads; ++a) sum += Get(args.x, t, a * args.head_stride + d);
      Set(args.y, sum, t, d);
    }
  }
}

void BroadcastHeads(const BroadcastHeadsArgs& args) {
  for (int64_t t = 0; t < args.x.extent(0); ++t) {
    for (int64_t a = 0; a < args.num_heads; ++a) {
      for (int64_t d = 0; d < args.x.extent(1); ++d) {
        Set(args.y, Get(args.x, t, d), t, a * args.head_stride + d);
      }
    }
  }
}

}  // namespace sluice::kernels::reference
