#include "kernels/reference/swiglu.h"

#include <cmath>

#include "kernels/reference/access.h"

namespace sluice::kernels::reference {

void Swiglu(const SwigluArgs& args) {
  const int64_t width = args.y.extent(1);
  for (int64_t t = 0; t < args.y.extent(0); ++t) {
    for (int64_t i = 0; i < width; ++i) {
      const double gate = Get(args.gate_up, t, i), up = Get(args.gate_up, t, width + i);
      Set(args.y, gate / (1.0 + std::exp(-gate)) * up, t, i);
    }
  }
}

void SwigluBackward(const SwigluBackwardArgs& args) {
  const int64_t width = args.dy.extent(1);
  for (int64_t t = 0; t < args.dy.extent(0); ++t) {
    for (int64_t i = 0; i < width; ++i) {
      const double gate = Get(args.gate_up, t, i), up = Get(args.gate_up, t, width + i);
      const double dy = Get(args.dy, t, i);
      const double sigmoid = 1.0 / (1.0 + std::exp(-gate));
      Set(args.dgate_up, dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)), t, i);
      Set(args.dgate_up, dy * gate * sigmoid, t, width + i);
    }
  }
}

}  // namespace sluice::kernels::reference
