// Matrix products of a warp (PTX ISA 9.7.14.5). All 32 lanes take part, or it is an error.
#include <algorithm>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/formats.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

constexpr int kM = 16, kN = 8;

// The value in lane l, register i of a fragment, as a row of the warp's registers.
uint32_t Register(const Context& c, size_t operand, size_t i, int lane) {
  return Get<uint32_t>(c.warp.Row(c.instruction.operands[operand].rows[i])[lane]);
}

float Half(uint32_t pair, int which) {
  return FromBFloat16(static_cast<uint16_t>(pair >> (16 * which)));
}

// m16n8k16, bf16: fragments as figures 71 to 73 of the manual place them; g = lane / 4, t = lane
// % 4.
void RunMmaBF16(const Context& c) {
  constexpr int kK = 16;
  if (c.mask != 0xffffffffu) {
    return c.block.Fail(c, FirstLane(c.mask), "not all 32 lanes execute this together");
  }
  float a[kM][kK], b[kN][kK];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = Register(c, 1, static_cast<size_t>(i), lane);
      for (int h = 0; h < 2; ++h) a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + h] = Half(pair, h);
    }
    for (int i = 0; i < 2; ++i) {
      const uint32_t pair = Register(c, 2, static_cast<size_t>(i), lane);
      for (int h = 0; h < 2; ++h) b[g][2 * t + 8 * i + h] = Half(pair, h);
    }
  }
  uint64_t result[4][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      // Exact products, summed in double, rounded once: the hardware's own rounding is not
      // documented.
      double sum = Get<float>(Register(c, 3, static_cast<size_t>(i), lane));
      for (int k = 0; k < kK; ++k) sum += static_cast<double>(a[row][k]) * b[column][k];
      result[i][lane] = Put<float>(static_cast<float>(sum));
    }
  }
  for (size_t i = 0; i < 4; ++i) {
    std::copy_n(result[i], kLanes, c.warp.Row(c.instruction.operands[0].rows[i]));
  }
}

}  // namespace

void DecodeMatrix(Instruction& i, Modifiers& modifiers) {
  const auto has_registers = [&](size_t operand, size_t count) {
    return i.operands.size() == 4 && i.operands[operand].rows.size() == count;
  };
  if (!modifiers.Take("sync") || !modifiers.Take("aligned")) return;
  if (!modifiers.Take("m16n8k16") || !modifiers.Take("row") || !modifiers.Take("col")) return;
  for (Type wanted : {Type::kF32, Type::kBF16, Type::kBF16, Type::kF32}) {
    if (modifiers.TakeType() != wanted) return;
  }
  if (has_registers(0, 4) && has_registers(1, 4) && has_registers(2, 2) && has_registers(3, 4)) {
    i.run = RunMmaBF16;
  }
}

}  // namespace sluice::cuda_double
