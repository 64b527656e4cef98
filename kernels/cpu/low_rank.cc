#include "kernels/cpu/low_rank.h"

#include <algorithm>
#include <array>

#include "kernels/core/philox.h"
#include "kernels/cpu/op_table.h"

#define SLUICE_TARGET_FILE "kernels/cpu/low_rank-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {
namespace {

constexpr int64_t kRadix = int64_t{1} << 20;  // of SplitRowIds

// The generator costs far more than the memory: no vector code here.
template <typename T>
void DropoutRows(const DropoutArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.x.extent(1), blocks = (width + 3) / 4;
  const float keep = 1.0f / (1.0f - args.rate);
  const int64_t* ids = args.row_ids.data<int64_t>();
  for (int64_t r = begin; r < end; ++r) {
    const T* x = args.x.data<T>() + r * args.x.row_stride();
    T* y = args.y.mutable_data<T>() + r * args.y.row_stride();
    for (int64_t block = 0; block < blocks; ++block) {
      const auto words =
          Philox(args.key, static_cast<uint64_t>(ids[r] * blocks + block), args.row_stream);
      const int64_t stop = std::min<int64_t>(4, width - 4 * block);
      for (int64_t i = 0; i < stop; ++i) {
        const bool dropped = UniformFromBits(words[i]) < args.rate;
        const int64_t c = 4 * block + i;
        if constexpr (std::is_same_v<T, float>) {
          y[c] = dropped ? 0.0f : x[c] * keep;
        } else {
          y[c] = ToBFloat16(dropped ? 0.0f : ToFloat(x[c]) * keep);
        }
      }
    }
  }
}

}  // namespace

LowRankTable LowRankTableOf(Target target) { return SLUICE_TABLE_OF(kLowRankTable, target); }

void ScaledAdd(ThreadPool& pool, const ScaledAddArgs& args) {
  const LowRankTable& table = Table().low_rank;
  RunRanges(pool, args.x.extent(0), args.x.extent(1),
            (args.accumulate ? table.scaled_add : table.scale)[args.x.dtype()], args);
}

void Dropout(ThreadPool& pool, const DropoutArgs& args) {
  const bool is_bf16 = args.x.dtype() == DType::kBF16;
  RunRanges(pool, args.x.extent(0), 8 * args.x.extent(1),
            is_bf16 ? DropoutRows<BFloat16> : DropoutRows<float>, args);
}

void RowIds(ThreadPool& /*pool*/, const RowIdsArgs& args) {
  int64_t* ids = args.ids.mutable_data<int64_t>();
  for (int64_t t = 0; t < args.ids.extent(0); ++t) ids[t] = args.first + t;
}

void SplitRowIds(ThreadPool& /*pool*/, const SplitRowIdsArgs& args) {
  for (int64_t t = 0; t < args.parts.extent(0); ++t) {
    float* part = args.parts.mutable_data<float>() + t * args.parts.row_stride();
    part[0] = static_cast<float>((args.first + t) / kRadix);
    part[1] = static_cast<float>((args.first + t) % kRadix);
  }
}

void ExpertRowIds(ThreadPool& /*pool*/, const ExpertRowIdsArgs& args) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  int64_t* ids = args.ids.mutable_data<int64_t>();
  for (int64_t e = 0; e + 1 < args.offsets.extent(0); ++e) {
    for (int64_t t = offsets[e]; t < offsets[e + 1]; ++t) {
      const float* part = args.parts.data<float>() + t * args.parts.row_stride();
      const int64_t token = static_cast<int64_t>(part[0]) * kRadix + static_cast<int64_t>(part[1]);
      ids[t] = token * args.num_experts + args.first_expert + e;
    }
  }
}

}  // namespace sluice::kernels::cpu
