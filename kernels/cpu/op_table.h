// The inner loops of every op for one target. One member per op file.
#pragma once

#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/target.h"

namespace sluice::kernels::cpu {

struct OpTable {
  MatmulTable matmul;
};

const OpTable& Table();                 // of CurrentTarget()
const OpTable& TableOf(Target target);  // CHECKs nothing: running it needs the target
}  // namespace sluice::kernels::cpu
