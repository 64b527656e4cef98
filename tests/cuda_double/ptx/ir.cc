#include "tests/cuda_double/ptx/ir.h"

namespace sluice::cuda_double {

Type TypeOf(const std::string& name) {
  static const std::map<std::string, Type> kTypes = {
      {"pred", Type::kPred},   {"b8", Type::kB8},         {"b16", Type::kB16},
      {"b32", Type::kB32},     {"b64", Type::kB64},       {"b128", Type::kB128},
      {"u8", Type::kU8},       {"u16", Type::kU16},       {"u32", Type::kU32},
      {"u64", Type::kU64},     {"s8", Type::kS8},         {"s16", Type::kS16},
      {"s32", Type::kS32},     {"s64", Type::kS64},       {"f16", Type::kF16},
      {"f16x2", Type::kF16x2}, {"bf16", Type::kBF16},     {"bf16x2", Type::kBF16x2},
      {"f32", Type::kF32},     {"f64", Type::kF64},       {"e4m3", Type::kE4M3},
      {"e5m2", Type::kE5M2},   {"e4m3x2", Type::kE4M3x2}, {"e5m2x2", Type::kE5M2x2}};
  const auto found = kTypes.find(name);
  return found == kTypes.end() ? Type::kNone : found->second;
}

int BytesOf(Type type) {
  switch (type) {
    case Type::kNone:
      return 0;
    case Type::kPred:
    case Type::kB8:
    case Type::kU8:
    case Type::kS8:
    case Type::kE4M3:
    case Type::kE5M2:
      return 1;
    case Type::kB16:
    case Type::kU16:
    case Type::kS16:
    case Type::kF16:
    case Type::kBF16:
    case Type::kE4M3x2:
    case Type::kE5M2x2:
      return 2;
    case Type::kB32:
    case Type::kU32:
    case Type::kS32:
    case Type::kF16x2:
    case Type::kBF16x2:
    case Type::kF32:
      return 4;
    case Type::kB64:
    case Type::kU64:
    case Type::kS64:
    case Type::kF64:
      return 8;
    case Type::kB128:
      return 16;
  }
  return 0;
}

bool IsSigned(Type type) {
  return type == Type::kS8 || type == Type::kS16 || type == Type::kS32 || type == Type::kS64;
}

std::string Instruction::Text() const {
  std::string text = opcode;
  for (const std::string& modifier : modifiers) text += "." + modifier;
  return text;
}

}  // namespace sluice::cuda_double
