#include "kernels/cpu/op_table.h"

#include <array>

namespace sluice::kernels::cpu {
namespace {

OpTable MakeTable(Target target) {
  OpTable table;
  table.matmul = MatmulTableOf(target);
  table.adamw = AdamWTableOf(target);
  table.attention = AttentionTableOf(target);
  table.block_quantize = BlockQuantizeTableOf(target);
  table.cast = CastTableOf(target);
  table.cross_entropy = CrossEntropyTableOf(target);
  table.embedding = EmbeddingTableOf(target);
  table.fp8_matmul = Fp8MatmulTableOf(target);
  table.low_rank = LowRankTableOf(target);
  table.permute = PermuteTableOf(target);
  table.rms_norm = RmsNormTableOf(target);
  table.rope = RopeTableOf(target);
  table.router = RouterTableOf(target);
  table.swiglu = SwigluTableOf(target);
  return table;
}

}  // namespace

const OpTable& TableOf(Target target) {
  static const std::array<OpTable, kNumTargets> tables = {
      MakeTable(Target::kScalar), MakeTable(Target::kAvx2), MakeTable(Target::kAvx512),
      MakeTable(Target::kAvx512Bf16)};
  return tables[static_cast<size_t>(target)];
}

const OpTable& Table() { return TableOf(CurrentTarget()); }

}  // namespace sluice::kernels::cpu
