// Floating-point arithmetic (PTX ISA 9.7.3). `rn` forms are IEEE's; `approx` forms give the rounded
// exact value, while the hardware's last bits are its own.
#include <cmath>
#include <limits>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

struct Add {
  template <typename T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Subtract {
  template <typename T>
  T operator()(T a, T b) const {
    return a - b;
  }
};
struct Multiply {
  template <typename T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct FusedMultiplyAdd {
  template <typename T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
// Rounded towards minus infinity.
struct FusedMultiplyAddDown {
  float operator()(float a, float b, float c) const {
    const float nearest = std::fma(a, b, c);
    if (std::isnan(nearest)) return nearest;
    if (std::isinf(nearest)) {
      const bool overflowed = std::isfinite(a) && std::isfinite(b) && std::isfinite(c);
      return overflowed && nearest > 0 ? std::numeric_limits<float>::max() : nearest;
    }
    // The exact value is sum + rest: a product of floats is exact in double, and the rounding error
    // of a sum too (Knuth's two-sum).
    const double product = double{a} * b, sum = product + c;
    const double part = sum - product, rest = (product - (sum - part)) + (c - part);
    const bool is_above = nearest - sum > rest;
    return is_above ? std::nextafter(nearest, -std::numeric_limits<float>::infinity()) : nearest;
  }
};
struct Divide {
  template <typename T>
  T operator()(T a, T b) const {
    return a / b;
  }
};
// A NaN loses against a number; -0 is below +0.
struct Minimum {
  template <typename T>
  T operator()(T a, T b) const {
    if (a == b) return std::signbit(a) ? a : b;
    return std::fmin(a, b);
  }
};
struct Maximum {
  template <typename T>
  T operator()(T a, T b) const {
    if (a == b) return std::signbit(a) ? b : a;
    return std::fmax(a, b);
  }
};
struct MinimumNaN {
  template <typename T>
  T operator()(T a, T b) const {
    return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : Minimum()(a, b);
  }
};
struct MaximumNaN {
  template <typename T>
  T operator()(T a, T b) const {
    return std::isnan(a) || std::isnan(b) ? std::numeric_limits<T>::quiet_NaN() : Maximum()(a, b);
  }
};
struct Absolute {
  template <typename T>
  T operator()(T a) const {
    return std::fabs(a);
  }
};
struct Negate {
  template <typename T>
  T operator()(T a) const {
    return -a;
  }
};
struct Reciprocal {
  template <typename T>
  T operator()(T a) const {
    return T{1} / a;
  }
};
struct SquareRoot {
  template <typename T>
  T operator()(T a) const {
    return std::sqrt(a);
  }
};
// rcp.approx.ftz.f64: a coarse start for Newton's method; the lower half of the result is zero.
struct CoarseReciprocal {
  double operator()(double a) const {
    constexpr double kSmallest = std::numeric_limits<double>::min();
    const double inverse = 1.0 / (std::fabs(a) < kSmallest ? std::copysign(0.0, a) : a);
    const double flushed = std::fabs(inverse) < kSmallest ? std::copysign(0.0, inverse) : inverse;
    return Get<double>(Put<double>(flushed) & 0xffffffff00000000ull);
  }
};
struct CopySign {  // of a to b
  template <typename T>
  T operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};
struct Exp2 {
  float operator()(float a) const { return static_cast<float>(std::exp2(double{a})); }
};
struct Log2 {
  float operator()(float a) const { return static_cast<float>(std::log2(double{a})); }
};

// Subnormal inputs and results become zero of their sign.
float Flush(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}
template <typename F>
struct Flushing {
  float operator()(float a) const { return Flush(F()(Flush(a))); }
  float operator()(float a, float b) const { return Flush(F()(Flush(a), Flush(b))); }
  float operator()(float a, float b, float c) const {
    return Flush(F()(Flush(a), Flush(b), Flush(c)));
  }
};

// A NaN that arithmetic in f32 gives is one: 0x7fffffff, whatever the operands' were.
template <typename F>
struct OneNaN {
  template <typename... Operands>
  float operator()(float a, Operands... others) const {
    const float result = F()(a, others...);
    return std::isnan(result) ? Get<float>(0x7fffffff) : result;
  }
  template <typename... Operands>
  double operator()(double a, Operands... others) const {
    return F()(a, others...);
  }
};

template <template <typename, typename> class Which, typename F>
Handler Rounded(Modifiers& modifiers, Type type) {
  modifiers.Take("rn");  // the default where it may be left out
  if (modifiers.Take("ftz")) {
    return type == Type::kF32 ? Which<Flushing<F>, float>::kRun : nullptr;
  }
  return ForFloats<Which, F>(type);
}

// Forms for f32 alone that are approximate on the hardware.
template <template <typename, typename> class Which, typename F>
Handler Approximate(Modifiers& modifiers, Type type) {
  if (type != Type::kF32) return nullptr;
  return modifiers.Take("ftz") ? Which<OneNaN<Flushing<F>>, float>::kRun
                               : Which<OneNaN<F>, float>::kRun;
}

Handler DivisionOf(const Instruction& i, Modifiers& modifiers, Type type) {
  const bool is_approximate = modifiers.Take("approx") || modifiers.Take("full");
  if (i.opcode == "div") {
    return is_approximate ? Approximate<Binary, Divide>(modifiers, type)
                          : Rounded<Binary, OneNaN<Divide>>(modifiers, type);
  }
  if (i.opcode == "rcp" && is_approximate && type == Type::kF64) {
    return modifiers.Take("ftz") ? RunUnary<CoarseReciprocal, double> : nullptr;
  }
  if (i.opcode == "rcp") {
    return is_approximate ? Approximate<Unary, Reciprocal>(modifiers, type)
                          : Rounded<Unary, OneNaN<Reciprocal>>(modifiers, type);
  }
  if (i.opcode == "sqrt") {
    return is_approximate ? Approximate<Unary, SquareRoot>(modifiers, type)
                          : Rounded<Unary, OneNaN<SquareRoot>>(modifiers, type);
  }
  if (!is_approximate) return nullptr;
  if (i.opcode == "ex2") return Approximate<Unary, Exp2>(modifiers, type);
  if (i.opcode == "lg2") return Approximate<Unary, Log2>(modifiers, type);
  return nullptr;
}

}  // namespace

void DecodeFloat(Instruction& i, Modifiers& modifiers) {
  const Type type = modifiers.TakeType();
  if (type != Type::kF32 && type != Type::kF64) return;
  i.type = type;
  const std::string& op = i.opcode;
  if (op == "add") i.run = Rounded<Binary, OneNaN<Add>>(modifiers, type);
  if (op == "sub") i.run = Rounded<Binary, OneNaN<Subtract>>(modifiers, type);
  if (op == "mul") i.run = Rounded<Binary, OneNaN<Multiply>>(modifiers, type);
  if (op == "fma") {
    const bool rounds_down = type == Type::kF32 && modifiers.Take("rm");
    i.run = rounds_down ? RunTernary<OneNaN<FusedMultiplyAddDown>, float>
                        : Rounded<Ternary, OneNaN<FusedMultiplyAdd>>(modifiers, type);
  }
  if (op == "abs") i.run = Rounded<Unary, Absolute>(modifiers, type);
  if (op == "neg") i.run = Rounded<Unary, Negate>(modifiers, type);
  if (op == "copysign") i.run = ForFloats<Binary, CopySign>(type);
  const bool keeps_nan = modifiers.Take("NaN");
  if (op == "min") {
    i.run = keeps_nan ? Rounded<Binary, MinimumNaN>(modifiers, type)
                      : Rounded<Binary, Minimum>(modifiers, type);
  }
  if (op == "max") {
    i.run = keeps_nan ? Rounded<Binary, MaximumNaN>(modifiers, type)
                      : Rounded<Binary, Maximum>(modifiers, type);
  }
  if (i.run == nullptr) i.run = DivisionOf(i, modifiers, type);
}

}  // namespace sluice::cuda_double
