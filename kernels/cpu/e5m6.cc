#include "kernels/cpu/e5m6.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/core/e4m3_scale.h"
#include "kernels/core/e5m6.h"
#include "kernels/cpu/ranges.h"

namespace sluice::kernels::cpu {
namespace {

inline float AsFloat(float x) { return x; }
inline float AsFloat(BFloat16 x) { return ToFloat(x); }
inline void Write(float x, float& to) { to = x; }
inline void Write(float x, BFloat16& to) { to = ToBFloat16(x); }

template <typename T>
float ScaleOfTile(const T* x, int64_t count) {
  float amax = 0.0f;
  for (int64_t i = 0; i < count; ++i) amax = std::max(amax, std::abs(AsFloat(x[i])));
  if (amax == 0.0f) return 1.0f;
  return RoundUpToPowerOfTwo(std::max(amax / kMaxE5M6, kLeastScale));
}

template <typename T>
void PackRow(const T* x, int64_t width, uint8_t* packed, int64_t bytes) {
  uint8_t* to = packed;
  uint8_t* scales = packed + width / 2 * 3;
  for (int64_t begin = 0; begin < width; begin += kE5m6Tile) {
    const int64_t end = std::min(begin + kE5m6Tile, width);
    const float scale = ScaleOfTile(x + begin, end - begin);
    *scales++ = ToUe8m0(scale);
    const float inverse = 1.0f / scale;  // exact
    for (int64_t i = begin; i < end; i += 2, to += 3) {
      const uint32_t a = ToE5M6(AsFloat(x[i]), inverse);
      const uint32_t b = ToE5M6(AsFloat(x[i + 1]), inverse);
      to[0] = static_cast<uint8_t>(a);
      to[1] = static_cast<uint8_t>(a >> 8 | (b & 15u) << 4);
      to[2] = static_cast<uint8_t>(b >> 4);
    }
  }
  std::memset(scales, 0, static_cast<size_t>(packed + bytes - scales));
}

template <typename T>
void UnpackRow(const uint8_t* packed, int64_t width, T* x) {
  const uint8_t* from = packed;
  const uint8_t* scales = packed + width / 2 * 3;
  for (int64_t begin = 0; begin < width; begin += kE5m6Tile) {
    const int64_t end = std::min(begin + kE5m6Tile, width);
    const float scale = FromUe8m0(*scales++);
    for (int64_t i = begin; i < end; i += 2, from += 3) {
      const uint32_t a = from[0] | (from[1] & 15u) << 8, b = from[1] >> 4 | uint32_t{from[2]} << 4;
      Write(FromE5M6(a) * scale, x[i]);
      Write(FromE5M6(b) * scale, x[i + 1]);
    }
  }
}

// row(r, its elements, its packed bytes) for every row, on all threads.
template <typename T, typename Row>
void ForEachRow(ThreadPool& pool, const E5m6RowsArgs& args, Row row) {
  const int64_t width = args.x.extent(1);
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, 4 * width));
  pool.ParallelRanges(args.x.extent(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      row(args.x.mutable_data<T>() + r * args.x.row_stride(),
          args.packed.mutable_data<uint8_t>() + r * args.packed.row_stride());
    }
  });
}

template <typename T>
void Pack(ThreadPool& pool, const E5m6RowsArgs& args) {
  ForEachRow<T>(pool, args, [&](const T* x, uint8_t* packed) {
    PackRow(x, args.x.extent(1), packed, args.packed.extent(1));
  });
}

template <typename T>
void Unpack(ThreadPool& pool, const E5m6RowsArgs& args) {
  ForEachRow<T>(pool, args,
                [&](T* x, const uint8_t* packed) { UnpackRow(packed, args.x.extent(1), x); });
}

}  // namespace

void PackE5m6Rows(ThreadPool& pool, const E5m6RowsArgs& args) {
  return args.x.dtype() == DType::kF32 ? Pack<float>(pool, args) : Pack<BFloat16>(pool, args);
}

void UnpackE5m6Rows(ThreadPool& pool, const E5m6RowsArgs& args) {
  return args.x.dtype() == DType::kF32 ? Unpack<float>(pool, args) : Unpack<BFloat16>(pool, args);
}

}  // namespace sluice::kernels::cpu
