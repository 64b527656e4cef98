// Matrix products of a warp, and loads of their operands (PTX ISA 9.0, section 9.7.14.5). All 32
// lanes take part, or it is an error.
#include <algorithm>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/formats.h"
#include "tests/cuda_double/exec/lanes.h"
#include "tests/cuda_double/exec/tensor_sum.h"

namespace sluice::cuda_double {
namespace {

constexpr int kM = 16, kN = 8;

bool IsWholeWarp(const Context& c) {
  if (c.mask == 0xffffffffu) return true;
  c.block.Fail(c, FirstLane(c.mask), "not all 32 lanes execute this together");
  return false;
}

// The value in lane l, register i of a fragment.
uint32_t Register(const Context& c, size_t operand, int i, int lane) {
  return Get<uint32_t>(
      c.warp.Row(c.instruction.operands[operand].rows[static_cast<size_t>(i)])[lane]);
}

// An operand's elements: how many share a register, and the value of one of them.
struct BF16Elements {
  static constexpr int kPerRegister = 2;
  static constexpr TensorInstruction kInstruction = TensorInstruction::kBF16;
  static float At(uint32_t bits, int i) {
    return FromBFloat16(static_cast<uint16_t>(bits >> (16 * i)));
  }
};
struct E4M3Elements {
  static constexpr int kPerRegister = 4;
  static constexpr TensorInstruction kInstruction = TensorInstruction::kE4M3ByWarp;
  static float At(uint32_t bits, int i) { return FromE4M3(static_cast<uint8_t>(bits >> (8 * i))); }
};

// m16n8k16 of bf16 and m16n8k32 of e4m3: a register holds neighbours along K; g = lane / 4, t =
// lane % 4. Register i of a: row g (+ 8 if i is odd), K from its size * t (+ half of K if i >= 2);
// of b: column g, K likewise with i >= 1; of c and d as below.
template <typename Elements>
void RunMma(const Context& c) {
  constexpr int kEach = Elements::kPerRegister, kK = 8 * kEach;
  if (!IsWholeWarp(c)) return;
  float a[kM][kK], b[kN][kK];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = Register(c, 1, i, lane);
      float* to = &a[g + 8 * (i % 2)][kEach * t + kK / 2 * (i / 2)];
      for (int e = 0; e < kEach; ++e) to[e] = Elements::At(bits, e);
    }
    for (int i = 0; i < 2; ++i) {
      const uint32_t bits = Register(c, 2, i, lane);
      float* to = &b[g][kEach * t + kK / 2 * i];
      for (int e = 0; e < kEach; ++e) to[e] = Elements::At(bits, e);
    }
  }
  const Accumulator how = c.block.launch().accumulator;
  uint64_t result[4][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      const float sum = Get<float>(Register(c, 3, i, lane));
      result[i][lane] = Put<float>(TensorSum(sum, a[row], b[column], kK, how, Elements::kInstruction));
    }
  }
  for (size_t i = 0; i < 4; ++i) {
    std::copy_n(result[i], kLanes, c.warp.Row(c.instruction.operands[0].rows[i]));
  }
}

// ldmatrix: lane 8 m + r holds the address of row r of matrix m, 16 bytes. Register m of lane l
// becomes elements 2 (l % 4) and the next of row l / 4; transposed, of column l / 4 (detail 1).
void RunLoadMatrix(const Context& c) {
  constexpr int kRows = 8, kRowBytes = 16;
  if (!IsWholeWarp(c)) return;
  const std::vector<int>& to = c.instruction.operands[0].rows;
  uint64_t result[4][kLanes];
  for (size_t m = 0; m < to.size(); ++m) {
    uint16_t elements[kRows][kRows];
    for (int row = 0; row < kRows; ++row) {
      const int lane = static_cast<int>(m) * kRows + row;
      const uint8_t* data =
          c.block.Access(c, lane, AddressOf(c, 1, lane), kRowBytes, AccessKind::kRead);
      if (data == nullptr) return;
      std::memcpy(elements[row], data, kRowBytes);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4, column = 2 * (lane % 4);
      const bool is_transposed = c.instruction.detail == 1;
      const uint32_t low = is_transposed ? elements[column][row] : elements[row][column];
      const uint32_t high = is_transposed ? elements[column + 1][row] : elements[row][column + 1];
      result[m][lane] = high << 16 | low;
    }
  }
  for (size_t m = 0; m < to.size(); ++m) std::copy_n(result[m], kLanes, c.warp.Row(to[m]));
}

void DecodeMma(Instruction& i, Modifiers& modifiers) {
  const bool is_fp8 = modifiers.Take("m16n8k32");
  if (!is_fp8 && !modifiers.Take("m16n8k16")) return;
  if (!modifiers.Take("row") || !modifiers.Take("col")) return;
  const Type operand = is_fp8 ? Type::kE4M3 : Type::kBF16;
  for (Type wanted : {Type::kF32, operand, operand, Type::kF32}) {
    if (modifiers.TakeType() != wanted) return;
  }
  constexpr size_t kRegisters[] = {4, 4, 2, 4};
  if (i.operands.size() != 4) return;
  for (size_t n = 0; n < 4; ++n) {
    if (i.operands[n].rows.size() != kRegisters[n]) return;
  }
  i.run = is_fp8 ? RunMma<E4M3Elements> : RunMma<BF16Elements>;
}

void DecodeLoadMatrix(Instruction& i, Modifiers& modifiers) {
  if (!modifiers.Take("m8n8") || modifiers.TakeType() != Type::kB16) return;
  if (!modifiers.Take("shared") && !modifiers.Take("shared::cta")) return;
  const int count = modifiers.TakeOneOf({"x1", "x2", "x4"});
  i.space = Space::kShared;
  i.detail = modifiers.Take("trans") ? 1 : 0;
  if (count < 0 || i.operands.size() != 2) return;
  if (i.operands[0].rows.size() == size_t{1} << count) i.run = RunLoadMatrix;
}

}  // namespace

void DecodeMatrix(Instruction& i, Modifiers& modifiers) {
  if (!modifiers.Take("sync") || !modifiers.Take("aligned")) return;
  if (i.opcode == "mma") return DecodeMma(i, modifiers);
  DecodeLoadMatrix(i, modifiers);
}

}  // namespace sluice::cuda_double
