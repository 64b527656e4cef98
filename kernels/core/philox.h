// Philox4x32-10, a counter-based random number generator (Salmon et al., "Parallel Random Numbers:
// As Easy as 1, 2, 3", SC11): the value is a pure function of (key, counter), so there is no
// generator state to save or to share.
#pragma once

#include <array>
#include <cstdint>

namespace sluice {

// Four 32-bit words of the stream `key` at position `counter`.
inline std::array<uint32_t, 4> Philox(uint64_t key, uint64_t counter_low,
                                      uint64_t counter_high = 0) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  std::array<uint32_t, 4> c = {
      static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
      static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * c[0], p1 = uint64_t{kMultiplier1} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

// What a random number is for; part of the key, so that no two uses share a stream.
enum class RandomPurpose : uint8_t {
  kInit = 1,
  kShuffle = 2,
  kFim = 3,
  kMixture = 4,
  kSample = 5,
  kTest = 6,
  kDropout = 7
};

inline uint64_t PhiloxKey(uint64_t seed, RandomPurpose purpose) {
  const auto words = Philox(seed, static_cast<uint64_t>(purpose), 0x736c75696365ull);
  return (uint64_t{words[1]} << 32) | words[0];
}

// 24 random bits in [0, 1).
inline float UniformFromBits(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace sluice
