// Neighbouring elements of a row, which a thread loads and stores at once: 16 bytes, where rows
// allow it, are what keeps memory busy (docs/kernels.md, "Kernels bound by memory").
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/core/tensor_view.h"
#include "kernels/cuda/element.cuh"

namespace sluice::kernels::cuda {

__device__ inline uint32_t BitsOf(uint8_t x) { return x; }
__device__ inline uint32_t BitsOf(float x) { return __float_as_uint(x); }
__device__ inline uint32_t BitsOf(bfloat16 x) { return __bfloat16_as_ushort(x); }

// Kept as words of four bytes and taken apart where an element is needed: in registers that is half
// of what elements of two bytes would take, and nobody waits for a load before.
template <typename T, int kCount = 16 / static_cast<int>(sizeof(T))>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Chunk {
  static constexpr int kElements = kCount, kInWord = 4 / sizeof(T), kWords = kCount / kInWord;
  uint32_t words[kWords];

  __device__ uint32_t Bits(int i) const {
    return words[i / kInWord] >> (i % kInWord * 8 * static_cast<int>(sizeof(T)));
  }
  // Of a chunk of zeros.
  __device__ void Put(int i, T x) {
    words[i / kInWord] |= BitsOf(x) << (i % kInWord * 8 * static_cast<int>(sizeof(T)));
  }
  __device__ float operator[](int i) const {
    if constexpr (std::is_same_v<T, float>) return __uint_as_float(words[i]);
    const uint32_t word = words[i / 2];
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
};

template <typename T>
__device__ bool IsAligned(const T* p, int bytes) {
  return reinterpret_cast<uint64_t>(p) % bytes == 0;
}

// All rows begin and end at multiples of 16 bytes, so that a chunk is there as a whole or not at
// all. A null view is.
inline bool IsCut(std::initializer_list<ConstTensorView> views) {
  for (const ConstTensorView& view : views) {
    if (view.is_null()) continue;
    const auto element = static_cast<int64_t>(SizeOf(view.dtype()));
    const int rank = view.shape().rank();
    const bool begins = reinterpret_cast<uintptr_t>(view.raw_data()) % 16 == 0 &&
                        (rank == 1 || view.row_stride() * element % 16 == 0);
    if (!begins || view.extent(rank - 1) * element % 16 != 0) return false;
  }
  return true;
}

// Where a chunk lies, and how many elements there are from there on.
template <typename T>
struct Part {
  T* at;
  int64_t left;
};

// to[i] = what lies at(i), and zeros in place of what is not there. `is_cut` is the same for all
// threads. All loads are issued before the first is waited for.
template <typename T, int kCount, int kNum, typename At>
__device__ void LoadChunks(Chunk<T, kCount> (&to)[kNum], bool is_cut, const At& at) {
  using C = Chunk<T, kCount>;
  if (is_cut) {
#pragma unroll
    for (int i = 0; i < kNum; ++i) {
      const Part<const T> part = at(i);
      to[i] = C{};
      if (part.left > 0) to[i] = *reinterpret_cast<const C*>(part.at);
    }
    return;
  }
  // Each takes the last place and moves the others forward: the code of one, in few registers.
#pragma unroll 1
  for (int i = 0; i < kNum; ++i) {
    const Part<const T> part = at(i);
    C next = {};
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (j < part.left) next.Put(j, part.at[j]);
    }
#pragma unroll
    for (int k = 0; k + 1 < kNum; ++k) to[k] = to[k + 1];
    to[kNum - 1] = next;
  }
}
template <typename T>
__device__ Chunk<T> LoadChunk(const T* from, int64_t left, bool is_cut) {
  Chunk<T> chunk[1];
  LoadChunks(chunk, is_cut, [&](int) { return Part<const T>{from, left}; });
  return chunk[0];
}

template <typename T, int kCount>
__device__ void StoreChunk(const Chunk<T, kCount>& from, T* to, int64_t left, bool is_cut) {
  if (is_cut) {
    if (left > 0) *reinterpret_cast<Chunk<T, kCount>*>(to) = from;
    return;
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (j < left) {
      using Raw = std::conditional_t<sizeof(T) == 1, uint8_t,
                                     std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>>;
      reinterpret_cast<Raw*>(to)[j] = static_cast<Raw>(from.Bits(j));
    }
  }
}

template <typename T, int kCount>
__device__ void ToFloats(const Chunk<T, kCount>& from, float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = from[i];
}

// FromFloat of each; of bfloat16 two at a time, unless there is a NaN.
template <typename T, int kCount>
__device__ Chunk<T, kCount> FromFloats(const float (&x)[kCount]) {
  Chunk<T, kCount> to = {};
  if constexpr (std::is_same_v<T, bfloat16>) {
    bool are_numbers = true;
#pragma unroll
    for (int i = 0; i < kCount; i += 2) are_numbers &= AreNumbers(x[i], x[i + 1]);
    if (are_numbers) {
#pragma unroll
      for (int i = 0; i < kCount; i += 2) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(x[i], x[i + 1]);
        to.words[i / 2] = BitsOf(pair.x) | BitsOf(pair.y) << 16;
      }
      return to;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) to.Put(i, FromFloat<T>(x[i]));
  return to;
}

}  // namespace sluice::kernels::cuda
