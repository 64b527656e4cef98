#include "kernels/reference/permute.h"

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void GatherRows(const GatherRowsArgs& args) {
  for (int64_t r = 0; r < args.y.extent(0); ++r) {
    const int64_t from = Index(args.index, r);
    for (int64_t h = 0; h < args.y.extent(1); ++h) Set(args.y, Get(args.x, from, h), r, h);
  }
}

void CombineRows(const CombineRowsArgs& args) {
  for (int64_t t = 0; t < args.y.extent(0); ++t) {
    for (int64_t h = 0; h < args.y.extent(1); ++h) {
      double sum = args.base.is_null() ? 0.0 : Get(args.base, t, h);
      for (int64_t k = 0; k < args.row_of.extent(1); ++k) {
        const double weight = args.weights.is_null() ? 1.0 : Get(args.weights, t, k);
        sum += weight * Get(args.rows, Index(args.row_of, t, k), h);
      }
      Set(args.y, sum, t, h);
    }
  }
}

void CombineRowsBackward(const CombineRowsBackwardArgs& args) {
  for (int64_t t = 0; t < args.dy.extent(0); ++t) {
    for (int64_t k = 0; k < args.row_of.extent(1); ++k) {
      const int64_t row = Index(args.row_of, t, k);
      double dot = 0;
      for (int64_t h = 0; h < args.dy.extent(1); ++h) {
        const double dy = Get(args.dy, t, h);
        dot += dy * Get(args.rows, row, h);
        Set(args.drows, Get(args.weights, t, k) * dy, row, h);
      }
      Set(args.dweights, dot, t, k);
    }
  }
}

}  // namespace sluice::kernels::reference
