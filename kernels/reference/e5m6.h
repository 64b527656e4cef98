// E5M6 rows, element by element in double; kernels/ops/e5m6.h has the contract.
#pragma once

#include "kernels/ops/e5m6.h"

namespace sluice::kernels::reference {

void PackE5m6Rows(const E5m6RowsArgs& args);
void UnpackE5m6Rows(const E5m6RowsArgs& args);

}  // namespace sluice::kernels::reference
