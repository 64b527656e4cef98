// A row that a block reads once, keeps in registers, and adds up in an order that does not depend
// on how it was read.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/launch.cuh"

namespace sluice::kernels::cuda {

// Element h of a row belongs to sum h mod 128, ascending; the sums are then added as BlockReduce
// does.
inline constexpr int kRowSums = 128;

// Which elements of a row a thread has: chunk `threadIdx.x` of every kThreads. It keeps kHeld of
// them; of a longer row it reads all again.
template <typename Element, int kNumThreads, int kNumHeld>
struct RowWalk {
  using T = Element;
  static constexpr int kThreads = kNumThreads, kWarps = kThreads / kWarp, kHeld = kNumHeld;
  static constexpr int kElements = Chunk<T>::kElements, kStep = kThreads * kElements;
  static constexpr int kColumns = kHeld * kStep;  // that are held at a time
  static_assert(kColumns % kRowSums == 0 && kThreads >= kRowSums);
  using Held = Chunk<T>[kHeld];
  using Shared = Chunk<T>[kHeld * kThreads];  // the same elements, where all threads see them
  int64_t width;
  bool is_cut;

  __host__ __device__ bool IsHeld() const { return width <= kColumns; }
  __device__ int64_t Column(int64_t first, int i) const {
    return first + i * kStep + threadIdx.x * kElements;
  }
  __device__ void Load(const T* row, int64_t first, Held& to) const {
    LoadChunks(to, is_cut, [&](int i) {
      return Part<const T>{row + Column(first, i), width - Column(first, i)};
    });
  }
  __device__ void LoadAt(const T* row, int64_t first, int i, float (&to)[kElements]) const {
    const int64_t column = Column(first, i);
    ToFloats(LoadChunk(row + column, width - column, is_cut), to);
  }
  __device__ void StoreAt(T* row, int64_t first, int i, const Chunk<T>& x) const {
    const int64_t column = Column(first, i);
    StoreChunk(x, row + column, width - column, is_cut);
  }
  __device__ static void Share(const Held& from, Shared& to) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) to[i * kThreads + threadIdx.x] = from[i];
  }
  __device__ static float SharedAt(const Shared& row, int h) {
    return ToFloat(reinterpret_cast<const T*>(row)[h]);
  }
  // f(h) for the elements first + h of this thread's sum, once all are shared.
  template <typename F>
  __device__ void ForSum(int64_t first, const F& f) const {
    __syncthreads();
    const int64_t left = width - first;
    const int end =
        threadIdx.x >= kRowSums ? 0 : static_cast<int>(left < kColumns ? left : kColumns);
#pragma unroll 8
    for (int h = static_cast<int>(threadIdx.x); h < end; h += kRowSums) f(h);
    if (!IsHeld()) __syncthreads();  // before the next are shared
  }
  // f(first of the columns that are held at a time)
  template <typename F>
  __device__ void ForEach(const F& f) const {
    for (int64_t first = 0; first < width; first += kColumns) f(first);
  }
};

template <typename T>
using NarrowWalk = RowWalk<T, 128, 2>;
template <typename T>
using WideWalk = RowWalk<T, 256, 4>;

// Calls run(walk) with the one for rows of this width.
template <typename T, typename Run>
void ForWalk(int64_t width, bool is_cut, const Run& run) {
  const NarrowWalk<T> narrow = {width, is_cut};
  if (narrow.IsHeld()) return run(narrow);
  run(WideWalk<T>{width, is_cut});
}

}  // namespace sluice::kernels::cuda
