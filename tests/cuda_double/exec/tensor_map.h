// What this device keeps in the 128 bytes of a CUtensorMap: written by the driver's function of the
// double, read by the copies.
#pragma once

#include <array>
#include <cstdint>

namespace sluice::cuda_double {

enum class Swizzle : uint8_t { kNone, k32, k64, k128 };  // bytes of a row of the pattern

struct TensorMap {
  static constexpr uint64_t kMagic = 0x51c3a9d07e5fb24dull;
  uint64_t magic = 0;
  uint64_t address = 0;
  uint32_t rank = 2;
  std::array<uint64_t, 3> extents = {1, 1, 1};  // elements; the first is contiguous
  std::array<uint64_t, 2> strides = {};         // bytes, of the second and the third
  std::array<uint32_t, 3> box = {1, 1, 1};      // elements
  uint32_t element_bytes = 0;
  Swizzle swizzle = Swizzle::kNone;
};
static_assert(sizeof(TensorMap) <= 128);

// Where the pattern puts the byte at `address` of shared memory: 16-byte units of a row change
// places by the row's number (PTX ISA 9.0, section 5.5.7, "Swizzling Modes").
inline uint64_t Swizzled(uint64_t address, Swizzle swizzle) {
  const uint64_t rows = swizzle == Swizzle::kNone ? 0 : (1u << static_cast<int>(swizzle)) - 1;
  return address ^ (address >> 7 & rows) << 4;
}

}  // namespace sluice::cuda_double
