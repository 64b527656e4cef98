// How handlers read and write a lane's value: rows hold 64 bits a lane, of which a type uses the
// lower ones.
#pragma once

#include <cstdint>
#include <cstring>

#include "tests/cuda_double/exec/block.h"

namespace sluice::cuda_double {

template <typename T>
T Get(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
uint64_t Put(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

// Address of operand `n` in a lane.
inline uint64_t AddressOf(const Context& c, size_t n, int lane) {
  const Operand& operand = c.instruction.operands[n];
  return c.warp.Row(operand.row)[lane] + static_cast<uint64_t>(operand.offset);
}

// d = f(a), f(a, b), f(a, b, c) in every lane. F is a functor; T the type of all operands.
template <typename F, typename T>
void RunUnary(const Context& c) {
  const uint64_t* a = c.Source(1);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = Put<T>(F()(Get<T>(a[lane]))); });
}

template <typename F, typename T>
void RunBinary(const Context& c) {
  const uint64_t *a = c.Source(1), *b = c.Source(2);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) { d[lane] = Put<T>(F()(Get<T>(a[lane]), Get<T>(b[lane]))); });
}

template <typename F, typename T>
void RunTernary(const Context& c) {
  const uint64_t *x = c.Source(1), *y = c.Source(2), *z = c.Source(3);
  uint64_t* d = c.Destination(0);
  ForLanes(c.mask, [&](int lane) {
    d[lane] = Put<T>(F()(Get<T>(x[lane]), Get<T>(y[lane]), Get<T>(z[lane])));
  });
}

// Run<F, T> for the T of a PTX type, or null. Which<F, T>::kRun is one of the functions above.
template <typename F, typename T>
struct Unary {
  static constexpr Handler kRun = RunUnary<F, T>;
};
template <typename F, typename T>
struct Binary {
  static constexpr Handler kRun = RunBinary<F, T>;
};
template <typename F, typename T>
struct Ternary {
  static constexpr Handler kRun = RunTernary<F, T>;
};

template <template <typename, typename> class Which, typename F>
Handler ForIntegers(Type type) {
  switch (type) {
    case Type::kU16:
      return Which<F, uint16_t>::kRun;
    case Type::kU32:
      return Which<F, uint32_t>::kRun;
    case Type::kU64:
      return Which<F, uint64_t>::kRun;
    case Type::kS16:
      return Which<F, int16_t>::kRun;
    case Type::kS32:
      return Which<F, int32_t>::kRun;
    case Type::kS64:
      return Which<F, int64_t>::kRun;
    default:
      return nullptr;
  }
}

template <template <typename, typename> class Which, typename F>
Handler ForBits(Type type) {
  switch (type) {
    case Type::kB16:
      return Which<F, uint16_t>::kRun;
    case Type::kB32:
      return Which<F, uint32_t>::kRun;
    case Type::kB64:
      return Which<F, uint64_t>::kRun;
    default:
      return nullptr;
  }
}

template <template <typename, typename> class Which, typename F>
Handler ForFloats(Type type) {
  switch (type) {
    case Type::kF32:
      return Which<F, float>::kRun;
    case Type::kF64:
      return Which<F, double>::kRun;
    default:
      return nullptr;
  }
}

}  // namespace sluice::cuda_double
