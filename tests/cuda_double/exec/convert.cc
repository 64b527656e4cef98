// cvt (PTX ISA 9.7.9.21 and 22).
#include <cmath>
#include <limits>
#include <type_traits>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/formats.h"
#include "tests/cuda_double/exec/lanes.h"

namespace sluice::cuda_double {
namespace {

enum Rounding { kNone, kNearest, kZero, kDown, kUp };

template <typename F>
F ToIntegral(F x, int rounding) {
  switch (rounding) {
    case kNearest:
      return std::nearbyint(x);
    case kDown:
      return std::floor(x);
    case kUp:
      return std::ceil(x);
    default:
      return std::trunc(x);
  }
}

// Out of range gives the nearest integer there is; a NaN gives 0 (the hardware: 2^63 for 64 bits).
template <typename From, typename To>
To FloatToInteger(From x, int rounding) {
  const From whole = ToIntegral(x, rounding);
  if (std::isnan(whole)) return sizeof(To) == 8 ? static_cast<To>(1ull << 63) : To{0};
  // One past the largest: a power of two, exact in either float.
  const From limit = std::ldexp(From{1}, std::numeric_limits<To>::digits);
  if (whole >= limit) return std::numeric_limits<To>::max();
  const From least = std::is_signed_v<To> ? -limit : From{0};
  if (whole < least) return std::numeric_limits<To>::min();
  return static_cast<To>(whole);
}

// detail: the rounding.
template <typename To, typename From>
void RunConvert(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  const int rounding = c.instruction.detail;
  ForLanes(c.mask, [&](int lane) {
    const From x = Get<From>(a[lane]);
    if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
      d[lane] = Put<To>(FloatToInteger<From, To>(x, rounding));
    } else if constexpr (std::is_same_v<From, To> && std::is_floating_point_v<From>) {
      d[lane] = Put<To>(rounding == kNone ? x : ToIntegral(x, rounding));
    } else if constexpr (std::is_integral_v<From> && std::is_integral_v<To>) {
      // Written to a wider register, the value is extended as its own type says.
      const To value = static_cast<To>(x);
      d[lane] = std::is_signed_v<To> ? static_cast<uint64_t>(static_cast<int64_t>(value))
                                     : static_cast<uint64_t>(value);
    } else {
      d[lane] = Put<To>(static_cast<To>(x));
    }
  });
}

template <typename To>
Handler FromType(Type from) {
  switch (from) {
    case Type::kU8:
      return RunConvert<To, uint8_t>;
    case Type::kU16:
      return RunConvert<To, uint16_t>;
    case Type::kU32:
      return RunConvert<To, uint32_t>;
    case Type::kU64:
      return RunConvert<To, uint64_t>;
    case Type::kS8:
      return RunConvert<To, int8_t>;
    case Type::kS16:
      return RunConvert<To, int16_t>;
    case Type::kS32:
      return RunConvert<To, int32_t>;
    case Type::kS64:
      return RunConvert<To, int64_t>;
    case Type::kF32:
      return RunConvert<To, float>;
    case Type::kF64:
      return RunConvert<To, double>;
    default:
      return nullptr;
  }
}

Handler PlainOf(Type to, Type from) {
  switch (to) {
    case Type::kU8:
      return FromType<uint8_t>(from);
    case Type::kU16:
      return FromType<uint16_t>(from);
    case Type::kU32:
      return FromType<uint32_t>(from);
    case Type::kU64:
      return FromType<uint64_t>(from);
    case Type::kS8:
      return FromType<int8_t>(from);
    case Type::kS16:
      return FromType<int16_t>(from);
    case Type::kS32:
      return FromType<int32_t>(from);
    case Type::kS64:
      return FromType<int64_t>(from);
    case Type::kF32:
      return FromType<float>(from);
    case Type::kF64:
      return FromType<double>(from);
    default:
      return nullptr;
  }
}

// cvt.sat: to [0, 1], a NaN to 0
void RunSaturate(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const float x = Get<float>(a[lane]);
    d[lane] = Put<float>(x >= 1 ? 1.0f : x > 0 ? x : 0.0f);
  });
}

// d = narrow(a)
template <auto kNarrow>
void RunNarrow(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = kNarrow(Get<float>(a[lane])); });
}

// d = {narrow(a), narrow(b)}, a in the upper half
template <auto kNarrow>
void RunNarrowPair(const Context& c) {
  const uint64_t *a = c.Source(1), *b = c.Source(2);
  uint64_t* d = c.Destination(0);
  constexpr int kBits = 8 * sizeof(kNarrow(0.0f));
  ForLanes(c.mask, [&](int lane) {
    d[lane] = uint64_t{kNarrow(Get<float>(a[lane]))} << kBits | kNarrow(Get<float>(b[lane]));
  });
}

template <auto kWiden>
void RunWiden(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = Put<float>(kWiden(static_cast<uint16_t>(a[lane]))); });
}

// cvt.rn.f16x2.e4m3x2: exact, both halves
template <auto kWiden>
void RunWidenPairToHalf(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    const uint16_t low = ToHalf(kWiden(static_cast<uint8_t>(a[lane])));
    const uint16_t high = ToHalf(kWiden(static_cast<uint8_t>(a[lane] >> 8)));
    d[lane] = uint64_t{high} << 16 | low;
  });
}

Handler NarrowOf(Modifiers& modifiers, Type to, Type from, int rounding) {
  if (from == Type::kF32 && rounding == kNearest) {
    if (to == Type::kBF16) return RunNarrow<ToBFloat16>;
    if (to == Type::kF16) return RunNarrow<ToHalf>;
    if (to == Type::kBF16x2) return RunNarrowPair<ToBFloat16>;
    if (to == Type::kF16x2) return RunNarrowPair<ToHalf>;
    if (to == Type::kE4M3x2 && modifiers.Take("satfinite")) return RunNarrowPair<ToE4M3>;
    if (to == Type::kE5M2x2 && modifiers.Take("satfinite")) return RunNarrowPair<ToE5M2>;
  }
  if (to == Type::kF32 && rounding == kNone) {
    if (from == Type::kF16) return RunWiden<FromHalf>;
    if (from == Type::kBF16) return RunWiden<FromBFloat16>;
  }
  if (to == Type::kF16x2 && rounding == kNearest) {
    if (from == Type::kE4M3x2) return RunWidenPairToHalf<FromE4M3>;
    if (from == Type::kE5M2x2) return RunWidenPairToHalf<FromE5M2>;
  }
  return nullptr;
}

bool IsFloat(Type type) { return type == Type::kF32 || type == Type::kF64; }

}  // namespace

void DecodeConvert(Instruction& i, Modifiers& modifiers) {
  const int to_integral = modifiers.TakeOneOf({"rni", "rzi", "rmi", "rpi"});
  const int rounding = to_integral >= 0 ? -1 : modifiers.TakeOneOf({"rn", "rz", "rm", "rp"});
  i.type = modifiers.TakeType();
  i.from_type = modifiers.TakeType();
  i.detail = (to_integral >= 0 ? to_integral : rounding) + 1;
  if (i.type == Type::kF32 && i.from_type == Type::kF32 && i.detail == kNone &&
      modifiers.Take("sat")) {
    i.run = RunSaturate;
    return;
  }
  i.run = NarrowOf(modifiers, i.type, i.from_type, i.detail);
  if (i.run != nullptr) return;
  // Which rounding a form takes: to an integer an integral one; to a narrower float to nearest.
  const bool narrows = IsFloat(i.type) && i.from_type != Type::kF32 && i.from_type != i.type;
  const bool widens = i.type == Type::kF64 && i.from_type == Type::kF32;
  if (IsFloat(i.from_type) && !IsFloat(i.type) && to_integral < 0) return;
  if (narrows && !widens && rounding != 0) return;
  if (rounding > 0) return;
  if (narrows || widens) i.detail = kNone;
  i.run = PlainOf(i.type, i.from_type);
}

}  // namespace sluice::cuda_double
