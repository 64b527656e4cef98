// The truth for reduce_rows: one element at a time. Arguments as in kernels/ops/reduce_rows.h.
#pragma once

#include "kernels/ops/reduce_rows.h"

namespace sluice::kernels::reference {

void ReduceRows(const ReduceRowsArgs& args);

}  // namespace sluice::kernels::reference
