#include "tests/cuda_double/exec/decode.h"

#include <algorithm>

namespace sluice::cuda_double {
namespace {

using DecodeFunction = void (*)(Instruction&, Modifiers&);

const std::map<std::string, std::vector<DecodeFunction>>& Opcodes() {
  static const std::map<std::string, std::vector<DecodeFunction>> kOpcodes = [] {
    std::map<std::string, std::vector<DecodeFunction>> opcodes;
    const auto add = [&](std::initializer_list<const char*> names, DecodeFunction decode) {
      for (const char* name : names) opcodes[name].push_back(decode);
    };
    add({"add", "sub", "mul", "mad", "div", "rem", "min", "max", "abs", "neg"}, DecodeInteger);
    add({"add", "sub", "mul", "fma", "div", "min", "max", "abs", "neg", "rcp", "sqrt", "ex2", "lg2",
         "copysign"},
        DecodeFloat);
    add({"and", "or", "xor", "not", "shl", "shr", "shf", "lop3", "prmt", "bfe", "bfi", "bfind",
         "popc", "clz", "brev"},
        DecodeLogic);
    add({"setp", "selp"}, DecodeCompare);
    add({"mov", "cvta"}, DecodeMove);
    add({"cvt"}, DecodeConvert);
    add({"ld", "st", "atom", "red"}, DecodeMemory);
    add({"shfl", "vote", "match", "redux", "activemask"}, DecodeWarp);
    add({"bra", "ret", "exit", "bar", "fence", "trap"}, DecodeFlow);
    add({"mma", "ldmatrix"}, DecodeMatrix);
    add({"mbarrier", "fence", "prefetch", "setmaxnreg", "cp"}, DecodeAsync);
    add({"wgmma"}, DecodeWarpgroup);
    return opcodes;
  }();
  return kOpcodes;
}

// The narrowest access to shared memory decides how finely races are looked for.
void NarrowGranule(const Instruction& instruction, size_t& granule) {
  const bool may_be_shared =
      instruction.space == Space::kShared || instruction.space == Space::kGeneric;
  const std::string& op = instruction.opcode;
  if (!may_be_shared || (op != "ld" && op != "st" && op != "atom" && op != "red")) return;
  granule = std::min(granule, static_cast<size_t>(std::max(1, BytesOf(instruction.type))));
}

}  // namespace

bool Modifiers::Take(const std::string& modifier) {
  const auto found = std::find(left_.begin(), left_.end(), modifier);
  if (found == left_.end()) return false;
  left_.erase(found);
  return true;
}

Type Modifiers::TakeType() {
  for (auto it = left_.begin(); it != left_.end(); ++it) {
    const Type type = TypeOf(*it);
    if (type == Type::kNone) continue;
    left_.erase(it);
    return type;
  }
  return Type::kNone;
}

int Modifiers::TakeOneOf(const std::vector<std::string>& choices) {
  for (size_t i = 0; i < choices.size(); ++i) {
    if (Take(choices[i])) return static_cast<int>(i);
  }
  return -1;
}

std::vector<std::string> KnownOpcodes() {
  std::vector<std::string> names;
  for (const auto& [name, decoders] : Opcodes()) names.push_back(name);
  return names;
}

std::string Decode(Kernel& kernel) {
  for (Instruction& instruction : kernel.code) {
    const auto found = Opcodes().find(instruction.opcode);
    bool is_known = false;
    if (found != Opcodes().end()) {
      for (DecodeFunction decode : found->second) {
        Modifiers modifiers(instruction);
        instruction.run = nullptr;
        decode(instruction, modifiers);
        is_known = instruction.run != nullptr && modifiers.IsEmpty();
        if (is_known) break;
      }
    }
    if (!is_known) {
      return kernel.title + ": PTX line " + std::to_string(instruction.ptx_line) + " `" +
             instruction.Text() + "`: this instruction or form is not modelled";
    }
    NarrowGranule(instruction, kernel.shared_granule);
  }
  return "";
}

}  // namespace sluice::cuda_double
