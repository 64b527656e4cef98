// Logic, shifts and bit fields (PTX ISA 9.7.8 and 9.7.1). Predicates are rows of 0 and 1.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

struct And {
  template <typename T>
  T operator()(T a, T b) const {
    return a & b;
  }
};
struct Or {
  template <typename T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct Xor {
  template <typename T>
  T operator()(T a, T b) const {
    return a ^ b;
  }
};
struct Not {
  template <typename T>
  T operator()(T a) const {
    return static_cast<T>(~a);
  }
};

// Operands of predicates may be negated: !p.
template <typename F>
void RunPredicates(const Context& c) {
  const bool has_two = c.instruction.operands.size() > 2;
  const uint64_t *a = c.Source(1), *b = has_two ? c.Source(2) : a;
  const uint64_t flip_a = c.instruction.operands[1].is_negated ? 1 : 0;
  const uint64_t flip_b = has_two && c.instruction.operands[2].is_negated ? 1 : 0;
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const uint64_t x = (a[lane] ^ flip_a) & 1, y = (b[lane] ^ flip_b) & 1;
    if constexpr (std::is_same_v<F, Not>) {
      d[lane] = x ^ 1;
    } else {
      d[lane] = F()(x, y);
    }
  });
}

// Shifts by the width or more give what shifting one by one would. The amount is always u32.
template <typename T>
void RunShiftLeft(const Context& c) {
  const uint64_t *a = c.Source(1), *amount = c.Source(2);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const auto n = Get<uint32_t>(amount[lane]);
    d[lane] = n >= 8 * sizeof(T) ? 0 : Put<T>(static_cast<T>(uint64_t{Get<T>(a[lane])} << n));
  });
}

template <typename T>
void RunShiftRight(const Context& c) {
  const uint64_t *a = c.Source(1), *amount = c.Source(2);
  uint64_t* d = c.Destination(0);
  constexpr uint32_t kBits = 8 * sizeof(T);
  ForLanes(c.mask, [&](int lane) {
    const auto n = Get<uint32_t>(amount[lane]);
    const T x = Get<T>(a[lane]);
    if (std::is_signed_v<T>) {
      d[lane] = Put<T>(static_cast<T>(x >> std::min(n, kBits - 1)));
    } else {
      d[lane] = n >= kBits ? 0 : Put<T>(static_cast<T>(x >> n));
    }
  });
}

Handler ShiftOf(const std::string& op, Type type) {
  if (op == "shl") {
    return type == Type::kB16   ? RunShiftLeft<uint16_t>
           : type == Type::kB32 ? RunShiftLeft<uint32_t>
           : type == Type::kB64 ? RunShiftLeft<uint64_t>
                                : nullptr;
  }
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return RunShiftRight<uint16_t>;
    case Type::kB32:
    case Type::kU32:
      return RunShiftRight<uint32_t>;
    case Type::kB64:
    case Type::kU64:
      return RunShiftRight<uint64_t>;
    case Type::kS16:
      return RunShiftRight<int16_t>;
    case Type::kS32:
      return RunShiftRight<int32_t>;
    case Type::kS64:
      return RunShiftRight<int64_t>;
    default:
      return nullptr;
  }
}

// shf.{l,r}.{wrap,clamp}.b32 d, lower, upper, amount. detail: 1 right, 2 clamp.
void RunFunnelShift(const Context& c) {
  const uint64_t *lower = c.Source(1), *upper = c.Source(2), *amount = c.Source(3);
  uint64_t* d = c.Destination(0);
  const bool is_right = (c.instruction.detail & 1) != 0, clamps = (c.instruction.detail & 2) != 0;
  ForLanes(c.mask, [&](int lane) {
    const uint64_t both = Get<uint32_t>(lower[lane]) | upper[lane] << 32;
    const uint32_t wanted = Get<uint32_t>(amount[lane]);
    const uint32_t n = clamps ? std::min(wanted, 32u) : wanted % 32;
    d[lane] = Put<uint32_t>(static_cast<uint32_t>(is_right ? both >> n : both << n >> 32));
  });
}

// Any function of three bits: bit (4 a + 2 b + c) of the table.
void RunLop3(const Context& c) {
  const uint64_t *x = c.Source(1), *y = c.Source(2), *z = c.Source(3), *table = c.Source(4);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    uint32_t result = 0;
    for (unsigned i = 0; i < 8; ++i) {
      if ((table[lane] >> i & 1) == 0) continue;
      const auto match = [&](uint64_t value, unsigned bit) {
        return bit != 0 ? static_cast<uint32_t>(value) : ~static_cast<uint32_t>(value);
      };
      result |= match(x[lane], i & 4) & match(y[lane], i & 2) & match(z[lane], i & 1);
    }
    d[lane] = result;
  });
}

// Each nibble of the selector names a byte of {b, a}; its top bit spreads that byte's sign.
void RunPermuteBytes(const Context& c) {
  const uint64_t *a = c.Source(1), *b = c.Source(2), *selector = c.Source(3);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const uint64_t bytes = Get<uint32_t>(a[lane]) | b[lane] << 32;
    uint32_t result = 0;
    for (unsigned i = 0; i < 4; ++i) {
      const auto which = static_cast<unsigned>(selector[lane] >> (4 * i) & 15);
      auto byte = static_cast<uint32_t>(bytes >> (8 * (which & 7)) & 0xff);
      if ((which & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
      result |= byte << (8 * i);
    }
    d[lane] = result;
  });
}

// bfe d, a, position, length
template <typename T>
void RunExtract(const Context& c) {
  const uint64_t *a = c.Source(1), *position = c.Source(2), *length = c.Source(3);
  uint64_t* d = c.Destination(0);
  constexpr unsigned kBits = 8 * sizeof(T);
  ForLanes(c.mask, [&](int lane) {
    const unsigned at = position[lane] & 0xff, n = length[lane] & 0xff;
    const T x = Get<T>(a[lane]);
    const unsigned top = std::min(at + n - 1, kBits - 1);
    const T fill = std::is_signed_v<T> && n != 0 ? static_cast<T>(0 - (x >> top & 1)) : T{0};
    T result = 0;
    for (unsigned i = 0; i < kBits; ++i) {
      const bool inside = i < n && at + i < kBits;
      const T bit = inside ? static_cast<T>(x >> (at + i) & 1) : static_cast<T>(fill & 1);
      result = static_cast<T>(static_cast<uint64_t>(result) | static_cast<uint64_t>(bit) << i);
    }
    d[lane] = Put<T>(result);
  });
}

// bfi d, a, b, position, length: bits of a over b
void RunInsert(const Context& c) {
  const uint64_t *a = c.Source(1), *b = c.Source(2), *position = c.Source(3), *length = c.Source(4);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const unsigned at = position[lane] & 0xff, n = length[lane] & 0xff;
    auto result = static_cast<uint32_t>(b[lane]);
    for (unsigned i = 0; i < n && at + i < 32; ++i) {
      result = (result & ~(1u << (at + i))) | static_cast<uint32_t>(a[lane] >> i & 1) << (at + i);
    }
    d[lane] = result;
  });
}

template <typename T>
void RunPopulation(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    d[lane] = static_cast<uint64_t>(__builtin_popcountll(Get<T>(a[lane])));
  });
}

template <typename T>
void RunLeadingZeros(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const uint64_t x = Get<T>(a[lane]);
    d[lane] =
        x == 0 ? 8 * sizeof(T) : static_cast<uint64_t>(__builtin_clzll(x)) - (64 - 8 * sizeof(T));
  });
}

// The place of the highest bit that is set; with shiftamt (detail 1) how far it is from the top.
void RunFindHighest(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const auto x = Get<uint32_t>(a[lane]);
    const auto zeros = x == 0 ? 0u : static_cast<uint32_t>(__builtin_clz(x));
    d[lane] = x == 0 ? 0xffffffffu : c.instruction.detail == 1 ? zeros : 31 - zeros;
  });
}

struct ReverseBits {
  template <typename T>
  T operator()(T a) const {
    T result = 0;
    for (unsigned i = 0; i < 8 * sizeof(T); ++i) {
      result = static_cast<T>(result | ((a >> i & 1) << (8 * sizeof(T) - 1 - i)));
    }
    return result;
  }
};

template <typename F, template <typename, typename> class Which>
Handler LogicOf(Type type) {
  return type == Type::kPred ? RunPredicates<F> : ForBits<Which, F>(type);
}

Handler FieldOf(const std::string& op, Type type) {
  const bool is_b32 = type == Type::kB32, is_b64 = type == Type::kB64;
  if (op == "lop3" && is_b32) return RunLop3;
  if (op == "prmt" && is_b32) return RunPermuteBytes;
  if (op == "bfi" && is_b32) return RunInsert;
  if (op == "brev") return ForBits<Unary, ReverseBits>(type);
  if (op == "popc")
    return is_b32 ? RunPopulation<uint32_t> : is_b64 ? RunPopulation<uint64_t> : nullptr;
  if (op == "clz") {
    return is_b32 ? RunLeadingZeros<uint32_t> : is_b64 ? RunLeadingZeros<uint64_t> : nullptr;
  }
  if (op == "bfe") {
    return type == Type::kU32   ? RunExtract<uint32_t>
           : type == Type::kS32 ? RunExtract<int32_t>
           : type == Type::kU64 ? RunExtract<uint64_t>
           : type == Type::kS64 ? RunExtract<int64_t>
                                : nullptr;
  }
  return nullptr;
}

}  // namespace

void DecodeLogic(Instruction& i, Modifiers& modifiers) {
  const std::string& op = i.opcode;
  const Type type = modifiers.TakeType();
  i.type = type;
  if (op == "and") i.run = LogicOf<And, Binary>(type);
  if (op == "or") i.run = LogicOf<Or, Binary>(type);
  if (op == "xor") i.run = LogicOf<Xor, Binary>(type);
  if (op == "not") i.run = LogicOf<Not, Unary>(type);
  if (op == "shl" || op == "shr") i.run = ShiftOf(op, type);
  if (op == "shf" && type == Type::kB32) {
    const int direction = modifiers.TakeOneOf({"l", "r"});
    const int mode = modifiers.TakeOneOf({"wrap", "clamp"});
    if (direction < 0 || mode < 0) return;
    i.detail = direction + 2 * mode;
    i.run = RunFunnelShift;
  }
  if (op == "bfind" && type == Type::kU32) {
    i.detail = modifiers.Take("shiftamt") ? 1 : 0;
    i.run = RunFindHighest;
  }
  if (i.run == nullptr) i.run = FieldOf(op, type);
}

}  // namespace sluice::cuda_double
