// The inner loops of the matrix products, one set per target.
#pragma once

#include "kernels/cpu/target.h"

namespace sluice::kernels::cpu {

struct MatmulTable {
  int tile_rows = 0;  // rows of `a` that one tile takes at most
};

MatmulTable MatmulTableOf(Target target);

}  // namespace sluice::kernels::cpu
