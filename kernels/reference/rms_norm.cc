#include "kernels/reference/rms_norm.h"

#include <cmath>
#include <vector>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void RmsNorm(const RmsNormArgs& args) {
  const int64_t rows = args.x.extent(0), width = args.x.extent(1);
  for (int64_t t = 0; t < rows; ++t) {
    ConstTensorView normalised = args.x;
    if (!args.residual.is_null()) {
      for (int64_t h = 0; h < width; ++h) {
        Set(args.residual_out, Get(args.x, t, h) + Get(args.residual, t, h), t, h);
      }
      normalised = args.residual_out;
    }
    double sum = 0;
    for (int64_t h = 0; h < width; ++h) sum += Get(normalised, t, h) * Get(normalised, t, h);
    const double inverse =
        1.0 / std::sqrt(sum / static_cast<double>(width) + static_cast<double>(args.eps));
    Set(args.inverse_rms, inverse, t);
    for (int64_t h = 0; h < width; ++h) {
      Set(args.y, Get(normalised, t, h) * inverse * Get(args.w, h), t, h);
    }
  }
}

// y_h = x_h r w_h with r = (mean(x^2) + eps)^(-1/2), so dr/dx_j = -r^3 x_j / H and
// dx_j = r (dy_j w_j - x_j r^2 / H * sum_h dy_h w_h x_h).
void RmsNormBackwardInput(const RmsNormBackwardInputArgs& args) {
  const int64_t rows = args.x.extent(0), width = args.x.extent(1);
  std::vector<double> dx(static_cast<size_t>(width));
  for (int64_t t = 0; t < rows; ++t) {
    const double r = Get(args.inverse_rms, t);
    double dot = 0;
    for (int64_t h = 0; h < width; ++h) {
      dot += Get(args.dy, t, h) * Get(args.w, h) * Get(args.x, t, h);
    }
    for (int64_t h = 0; h < width; ++h) {
      double value = r * (Get(args.dy, t, h) * Get(args.w, h) -
                          Get(args.x, t, h) * r * r * dot / static_cast<double>(width));
      if (!args.dx_add.is_null()) value += Get(args.dx_add, t, h);
      dx[static_cast<size_t>(h)] = value;
    }
    for (int64_t h = 0; h < width; ++h) Set(args.dx, dx[static_cast<size_t>(h)], t, h);
  }
}

void RmsNormBackwardWeight(const RmsNormBackwardWeightArgs& args) {
  const int64_t rows = args.x.extent(0), width = args.x.extent(1);
  for (int64_t h = 0; h < width; ++h) {
    double sum = Get(args.dw, h);
    for (int64_t t = 0; t < rows; ++t) {
      sum += Get(args.dy, t, h) * Get(args.x, t, h) * Get(args.inverse_rms, t);
    }
    Set(args.dw, sum, h);
  }
}

}  // namespace sluice::kernels::reference
