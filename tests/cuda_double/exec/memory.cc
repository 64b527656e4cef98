// Loads, stores and atomics (PTX ISA 9.7.9 and 9.7.13).
#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

// What a register holds after loading `bytes` from `data`: signed types are extended.
uint64_t Extended(const uint8_t* data, Type type) {
  const int bytes = BytesOf(type);
  uint64_t value = 0;
  std::memcpy(&value, data, static_cast<size_t>(bytes));
  if (IsSigned(type) && bytes < 8) {
    const int unused = 64 - 8 * bytes;
    value = static_cast<uint64_t>(static_cast<int64_t>(value << unused) >> unused);
  }
  return value;
}

// The register row of value i of a load or store; -1 for _.
int ValueRow(const Operand& operand, size_t i) {
  return operand.kind == Operand::Kind::kVector ? operand.rows[i] : operand.row;
}

void LoadValues(const Context& c, int lane, const uint8_t* data) {
  const auto bytes = static_cast<size_t>(BytesOf(c.instruction.type));
  for (size_t i = 0; i < static_cast<size_t>(c.instruction.num_values); ++i) {
    const int row = ValueRow(c.instruction.operands[0], i);
    if (row >= 0) c.warp.Row(row)[lane] = Extended(data + i * bytes, c.instruction.type);
  }
}

size_t AccessBytes(const Instruction& i) {
  return static_cast<size_t>(BytesOf(i.type) * i.num_values);
}

void RunLoad(const Context& c) {
  const size_t bytes = AccessBytes(c.instruction);
  ForLanes(c.mask, [&](int lane) {
    const uint8_t* data = c.block.Access(c, lane, AddressOf(c, 1, lane), bytes, AccessKind::kRead);
    if (data != nullptr) LoadValues(c, lane, data);
  });
}

// The parameters' space starts at 0; a kernel may hold an address in it in a register.
void RunLoadParameter(const Context& c) {
  const Operand& from = c.instruction.operands[1];
  const std::vector<uint8_t>& parameters = c.block.launch().parameters;
  ForLanes(c.mask, [&](int lane) {
    const uint64_t offset =
        from.is_parameter ? static_cast<uint64_t>(from.offset) : AddressOf(c, 1, lane);
    if (offset + AccessBytes(c.instruction) > parameters.size()) {
      return c.block.Fail(c, lane, "reads past the kernel's parameters");
    }
    LoadValues(c, lane, parameters.data() + offset);
  });
}

void RunStore(const Context& c) {
  const size_t bytes = AccessBytes(c.instruction);
  const auto each = static_cast<size_t>(BytesOf(c.instruction.type));
  ForLanes(c.mask, [&](int lane) {
    uint8_t* data = c.block.Access(c, lane, AddressOf(c, 0, lane), bytes, AccessKind::kWrite);
    if (data == nullptr) return;
    for (size_t i = 0; i < static_cast<size_t>(c.instruction.num_values); ++i) {
      std::memcpy(data + i * each, &c.warp.Row(ValueRow(c.instruction.operands[1], i))[lane], each);
    }
  });
}

// Additions of integers. Lanes go one after the other. atom has a destination in front.
template <typename T, bool kHasResult>
void RunAtomic(const Context& c) {
  constexpr size_t kAddress = kHasResult ? 1 : 0;
  const uint64_t* b = c.Source(kAddress + 1);
  ForLanes(c.mask, [&](int lane) {
    uint8_t* data =
        c.block.Access(c, lane, AddressOf(c, kAddress, lane), sizeof(T), AccessKind::kAtomic);
    if (data == nullptr) return;
    T old;
    std::memcpy(&old, data, sizeof old);
    const T value = old + Get<T>(b[lane]);
    std::memcpy(data, &value, sizeof value);
    if constexpr (kHasResult) c.Destination(0)[lane] = Put<T>(old);
  });
}

template <bool kHasResult>
Handler AtomicOf(Type type) {
  switch (type) {
    case Type::kU32:
    case Type::kS32:
      return RunAtomic<uint32_t, kHasResult>;
    case Type::kU64:
      return RunAtomic<uint64_t, kHasResult>;
    default:
      return nullptr;
  }
}

Space TakeSpace(Modifiers& modifiers) {
  if (modifiers.Take("global")) return Space::kGlobal;
  if (modifiers.Take("shared") || modifiers.Take("shared::cta")) return Space::kShared;
  if (modifiers.Take("local")) return Space::kLocal;
  if (modifiers.Take("param")) return Space::kParameter;
  return Space::kGeneric;
}

}  // namespace

void DecodeMemory(Instruction& i, Modifiers& modifiers) {
  i.space = TakeSpace(modifiers);
  // Weak accesses with hints for the caches. Volatile and relaxed ones are no hints.
  modifiers.TakeOneOf({"nc", "ca", "cg", "cs", "lu", "wb", "wt"});
  modifiers.TakeOneOf({"L1::no_allocate", "L1::evict_last", "L1::evict_first"});
  modifiers.TakeOneOf({"L2::128B", "L2::256B", "L2::64B"});
  const int vector = modifiers.TakeOneOf({"v2", "v4", "v8"});
  i.num_values = vector < 0 ? 1 : 2 << vector;
  i.type = modifiers.TakeType();
  if (i.type == Type::kNone) return;
  if (i.opcode == "ld") {
    const bool is_parameter = i.space == Space::kParameter;
    if (!is_parameter && i.operands[1].is_parameter) return;
    i.run = is_parameter ? RunLoadParameter : RunLoad;
  } else if (i.opcode == "st") {
    if (i.space != Space::kParameter) i.run = RunStore;
  } else {
    modifiers.Take("relaxed");
    modifiers.TakeOneOf({"cta", "gpu", "sys"});
    if (!modifiers.Take("add")) return;
    i.run = i.opcode == "atom" ? AtomicOf<true>(i.type) : AtomicOf<false>(i.type);
  }
}

}  // namespace sluice::cuda_double
