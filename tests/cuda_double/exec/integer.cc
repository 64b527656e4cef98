// Integer arithmetic (PTX ISA 9.7.1). Overflow wraps.
#include <type_traits>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

template <typename T>
uint64_t Wide(T x) {
  return static_cast<uint64_t>(x);
}

struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(Wide(a) + Wide(b));
  }
};
struct Subtract {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(Wide(a) - Wide(b));
  }
};
struct MultiplyLow {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(Wide(a) * Wide(b));
  }
};
struct MultiplyHigh {
  template <typename T>
  T operator()(T a, T b) const {
    using Double = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>((static_cast<Double>(a) * static_cast<Double>(b)) >> (8 * sizeof(T)));
  }
};
struct MultiplyAddLow {
  template <typename T>
  T operator()(T a, T b, T c) const {
    return static_cast<T>(Wide(a) * Wide(b) + Wide(c));
  }
};
struct MultiplyAddHigh {
  template <typename T>
  T operator()(T a, T b, T c) const {
    return Add()(MultiplyHigh()(a, b), c);
  }
};
// Division by zero: all bits one, as the hardware gives; the manual leaves it open.
struct Divide {
  template <typename T>
  T operator()(T a, T b) const {
    if (b == 0) return static_cast<T>(~T{0});
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(0 - Wide(a));
    return static_cast<T>(a / b);
  }
};
struct Remainder {
  template <typename T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
  }
};
struct Minimum {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Maximum {
  template <typename T>
  T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Absolute {
  template <typename T>
  T operator()(T a) const {
    return a < 0 ? static_cast<T>(0 - Wide(a)) : a;
  }
};
struct Negate {
  template <typename T>
  T operator()(T a) const {
    return static_cast<T>(0 - Wide(a));
  }
};

// The whole product, of twice the operands' width; mad.wide adds c of that width.
template <typename T, typename Twice, bool kAdd>
void RunWide(const Context& c) {
  const uint64_t *a = c.Source(1), *b = c.Source(2), *addend = c.Source(kAdd ? 3 : 1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const Twice product = static_cast<Twice>(Wide<Twice>(static_cast<Twice>(Get<T>(a[lane]))) *
                                             Wide<Twice>(static_cast<Twice>(Get<T>(b[lane]))));
    d[lane] = Put<Twice>(kAdd ? Add()(product, Get<Twice>(addend[lane])) : product);
  });
}

template <bool kAdd>
Handler WideOf(Type type) {
  switch (type) {
    case Type::kU16:
      return RunWide<uint16_t, uint32_t, kAdd>;
    case Type::kS16:
      return RunWide<int16_t, int32_t, kAdd>;
    case Type::kU32:
      return RunWide<uint32_t, uint64_t, kAdd>;
    case Type::kS32:
      return RunWide<int32_t, int64_t, kAdd>;
    default:
      return nullptr;
  }
}

Handler MultiplyOf(Modifiers& modifiers, Type type, bool with_add) {
  switch (modifiers.TakeOneOf({"lo", "hi", "wide"})) {
    case 0:
      return with_add ? ForIntegers<Ternary, MultiplyAddLow>(type)
                      : ForIntegers<Binary, MultiplyLow>(type);
    case 1:
      return with_add ? ForIntegers<Ternary, MultiplyAddHigh>(type)
                      : ForIntegers<Binary, MultiplyHigh>(type);
    case 2:
      return with_add ? WideOf<true>(type) : WideOf<false>(type);
    default:
      return nullptr;
  }
}

}  // namespace

void DecodeInteger(Instruction& i, Modifiers& modifiers) {
  const Type type = modifiers.TakeType();
  const std::string& op = i.opcode;
  i.type = type;
  if (op == "add") i.run = ForIntegers<Binary, Add>(type);
  if (op == "sub") i.run = ForIntegers<Binary, Subtract>(type);
  if (op == "mul") i.run = MultiplyOf(modifiers, type, false);
  if (op == "mad") i.run = MultiplyOf(modifiers, type, true);
  if (op == "div") i.run = ForIntegers<Binary, Divide>(type);
  if (op == "rem") i.run = ForIntegers<Binary, Remainder>(type);
  if (op == "min") i.run = ForIntegers<Binary, Minimum>(type);
  if (op == "max") i.run = ForIntegers<Binary, Maximum>(type);
  if (op == "abs" && IsSigned(type)) i.run = ForIntegers<Unary, Absolute>(type);
  if (op == "neg" && IsSigned(type)) i.run = ForIntegers<Unary, Negate>(type);
}

}  // namespace sluice::cuda_double
