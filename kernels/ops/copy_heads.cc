#include "kernels/ops/copy_heads.h"

#include <cstring>

#include "kernels/ops/dispatch.h"

namespace sluice::kernels {
namespace cpu {

void CopyHeads(ThreadPool& pool, const CopyHeadsArgs& args) {
  const size_t element = SizeOf(args.x.dtype());
  const size_t bytes = static_cast<size_t>(args.x.extent(1)) * element;
  pool.ParallelRanges(args.x.extent(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const char* from =
          static_cast<const char*>(args.x.raw_data()) + t * args.x.row_stride() * element;
      char* to = static_cast<char*>(args.y.raw_mutable_data()) + t * args.y.row_stride() * element;
      for (int64_t a = 0; a < args.num_heads; ++a) {
        std::memcpy(to + a * args.y_head_stride * element, from + a * args.head_stride * element,
                    bytes);
      }
    }
  });
}

}  // namespace cpu

void CopyHeads(Stream& stream, const CopyHeadsArgs& args) {
  CHECK_EQ(args.x.shape(), args.y.shape());
  CHECK_EQ(args.x.shape().rank(), 2);
  CHECK(args.x.dtype() == args.y.dtype());
  RUN_OP(stream, CopyHeads, args);
}

}  // namespace sluice::kernels
