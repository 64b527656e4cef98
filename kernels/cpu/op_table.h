// The inner loops of every op for one target. One member per op file.
#pragma once

#include "kernels/cpu/adamw.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/block_quantize.h"
#include "kernels/cpu/cast.h"
#include "kernels/cpu/cross_entropy.h"
#include "kernels/cpu/embedding.h"
#include "kernels/cpu/fp8_matmul.h"
#include "kernels/cpu/low_rank.h"
#include "kernels/cpu/matmul_table.h"
#include "kernels/cpu/permute.h"
#include "kernels/cpu/rms_norm.h"
#include "kernels/cpu/rope.h"
#include "kernels/cpu/router.h"
#include "kernels/cpu/swiglu.h"
#include "kernels/cpu/target.h"

namespace sluice::kernels::cpu {

struct OpTable {
  MatmulTable matmul;
  AdamWTable adamw;
  AttentionTable attention;
  BlockQuantizeTable block_quantize;
  CastTable cast;
  CrossEntropyTable cross_entropy;
  EmbeddingTable embedding;
  Fp8MatmulTable fp8_matmul;
  LowRankTable low_rank;
  PermuteTable permute;
  RmsNormTable rms_norm;
  RopeTable rope;
  RouterTable router;
  SwigluTable swiglu;
};

const OpTable& Table();                 // of CurrentTarget()
const OpTable& TableOf(Target target);  // CHECKs nothing: running it needs the target
}  // namespace sluice::kernels::cpu
