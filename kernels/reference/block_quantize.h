#pragma once

#include "kernels/ops/block_quantize.h"

namespace sluice::kernels::reference {

void Quantize(const QuantizeArgs& args);
void RequantizeColumns(const RequantizeColumnsArgs& args);
void DequantizeRows(const DequantizeRowsArgs& args);
void QuantizeWeight(const QuantizeWeightArgs& args);
void DequantizeWeight(const DequantizeWeightArgs& args);

}  // namespace sluice::kernels::reference
