#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/cpu/matmul_layout.h"
#include "kernels/cpu/matmul_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/matmul-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

MatmulTable MatmulTableOf(Target target) { return SLUICE_TABLE_OF(kMatmulTable, target); }

}  // namespace sluice::kernels::cpu
