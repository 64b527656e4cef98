// setp and selp (PTX ISA 9.7.6).
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

enum Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kNumber, kNan };
constexpr int kUnordered = 8;  // added: true where an operand is a NaN

const std::vector<std::string>& Names() {
  static const std::vector<std::string> kNames = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",
                                                  "num", "nan", "equ", "neu", "ltu", "leu",
                                                  "gtu", "geu", "lo",  "ls",  "hi",  "hs"};
  return kNames;
}
constexpr int kFirstUnsignedName = 14;  // lo, ls, hi, hs: lt, le, gt, ge of unsigned integers

template <typename T>
bool Holds(int comparison, T a, T b) {
  bool is_unordered = false;
  if constexpr (std::is_floating_point_v<T>) is_unordered = std::isnan(a) || std::isnan(b);
  if (is_unordered && (comparison & kUnordered) != 0) return true;
  switch (comparison & 7) {
    case kEq:
      return a == b;
    case kNe:
      return a != b && !is_unordered;
    case kLt:
      return a < b;
    case kLe:
      return a <= b;
    case kGt:
      return a > b;
    case kGe:
      return a >= b;
    case kNumber:
      return !is_unordered;
    default:
      return is_unordered;
  }
}

// detail: comparison + 16 * (0 nothing, 1 and, 2 or, 3 xor with operand 3)
template <typename T>
void RunSetp(const Context& c) {
  const Operand& to = c.instruction.operands[0];
  const int comparison = c.instruction.detail & 15, combine = c.instruction.detail >> 4;
  const uint64_t *a = c.Source(1), *b = c.Source(2), *with = combine != 0 ? c.Source(3) : a;
  const bool negates = combine != 0 && c.instruction.operands[3].is_negated;
  uint64_t* p = c.Destination(0);
  uint64_t* q = to.second >= 0 ? c.warp.Row(to.second) : nullptr;
  const auto combined = [&](bool x, bool y) {
    return combine == 1 ? x && y : combine == 2 ? x || y : combine == 3 ? x != y : x;
  };
  ForLanes(c.mask, [&](int lane) {
    const bool result = Holds(comparison, Get<T>(a[lane]), Get<T>(b[lane]));
    const bool other = ((with[lane] & 1) != 0) != negates;
    p[lane] = combined(result, other) ? 1 : 0;
    if (q != nullptr) q[lane] = combined(!result, other) ? 1 : 0;
  });
}

Handler SetpOf(Type type) {
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return RunSetp<uint16_t>;
    case Type::kB32:
    case Type::kU32:
      return RunSetp<uint32_t>;
    case Type::kB64:
    case Type::kU64:
      return RunSetp<uint64_t>;
    case Type::kS16:
      return RunSetp<int16_t>;
    case Type::kS32:
      return RunSetp<int32_t>;
    case Type::kS64:
      return RunSetp<int64_t>;
    case Type::kF32:
      return RunSetp<float>;
    case Type::kF64:
      return RunSetp<double>;
    default:
      return nullptr;
  }
}

void RunSelp(const Context& c) {
  const uint64_t *a = c.Source(1), *b = c.Source(2), *p = c.Source(3);
  const uint64_t flip = c.instruction.operands[3].is_negated ? 1 : 0;
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = ((p[lane] ^ flip) & 1) != 0 ? a[lane] : b[lane]; });
}

}  // namespace

void DecodeCompare(Instruction& i, Modifiers& modifiers) {
  i.type = modifiers.TakeType();
  if (i.opcode == "selp") {
    if (BytesOf(i.type) >= 2) i.run = RunSelp;
    return;
  }
  int comparison = modifiers.TakeOneOf(Names());
  if (comparison < 0) return;
  if (comparison >= kFirstUnsignedName) comparison = comparison - kFirstUnsignedName + kLt;
  i.detail = comparison + 16 * (modifiers.TakeOneOf({"and", "or", "xor"}) + 1);
  i.run = SetpOf(i.type);
}

}  // namespace sluice::cuda_double
