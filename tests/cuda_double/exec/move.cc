// mov, packing and unpacking, and address spaces (PTX ISA 9.7.9).
#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

uint64_t LowBits(uint64_t value, int bits) {
  return bits == 64 ? value : value & ((1ull << bits) - 1);
}

void RunMove(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  const int bits = c.instruction.type == Type::kPred ? 1 : 8 * BytesOf(c.instruction.type);
  ForLanes(c.mask, [&](int lane) { d[lane] = LowBits(a[lane], bits); });
}

// mov.b64 d, {a, b}: a is the lower part.
void RunPack(const Context& c) {
  const std::vector<int>& parts = c.instruction.operands[1].rows;
  const int bits = 8 * BytesOf(c.instruction.type) / static_cast<int>(parts.size());
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    uint64_t whole = 0;
    for (size_t i = parts.size(); i-- > 0;) {
      whole = whole << bits | LowBits(c.warp.Row(parts[i])[lane], bits);
    }
    d[lane] = whole;
  });
}

void RunUnpack(const Context& c) {
  const std::vector<int>& parts = c.instruction.operands[0].rows;
  const int bits = 8 * BytesOf(c.instruction.type) / static_cast<int>(parts.size());
  const uint64_t* a = c.Source(1);
  ForLanes(c.mask, [&](int lane) {
    const uint64_t whole = a[lane];
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i] < 0) continue;
      c.warp.Row(parts[i])[lane] = LowBits(whole >> (static_cast<int>(i) * bits), bits);
    }
  });
}

// To and from generic addresses: shared and local memory have windows, global addresses stay.
void RunAddress(const Context& c) {
  const bool to_space = c.instruction.detail != 0;
  const uint64_t window = c.instruction.space == Space::kShared      ? kSharedWindow
                          : c.instruction.space == Space::kLocal     ? kLocalWindow
                          : c.instruction.space == Space::kParameter ? kParameterWindow
                                                                     : 0;
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = to_space ? a[lane] & ~window : a[lane] | window; });
}

}  // namespace

void DecodeMove(Instruction& i, Modifiers& modifiers) {
  if (i.opcode == "cvta") {
    i.detail = modifiers.Take("to") ? 1 : 0;
    if (modifiers.Take("shared") || modifiers.Take("shared::cta")) {
      i.space = Space::kShared;
    } else if (modifiers.Take("local")) {
      i.space = Space::kLocal;
    } else if (modifiers.Take("param")) {
      i.space = Space::kParameter;
    } else if (modifiers.Take("global")) {
      i.space = Space::kGlobal;
    } else {
      return;
    }
    if (modifiers.TakeType() == Type::kU64) i.run = RunAddress;
    return;
  }
  i.type = modifiers.TakeType();
  if (i.operands.size() != 2 || i.type == Type::kNone) return;
  i.run = i.operands[0].kind == Operand::Kind::kVector   ? RunUnpack
          : i.operands[1].kind == Operand::Kind::kVector ? RunPack
                                                         : RunMove;
}

}  // namespace sluice::cuda_double
