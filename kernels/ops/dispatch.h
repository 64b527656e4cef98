// Hands an op to the backend of its stream's device. The one place in this folder that knows
// whether the CUDA backend is built.
#pragma once

#include <utility>

#include "kernels/core/cpu_stream.h"
#include "kernels/cuda/ops.h"

namespace sluice::kernels {

#ifdef SLUICE_WITH_CUDA
inline constexpr bool kWithCuda = true;
#else
inline constexpr bool kWithCuda = false;
#endif

inline bool IsOnCuda(const Stream& stream) { return stream.device().type == DeviceType::kCuda; }

}  // namespace sluice::kernels

// RUN_OP(stream, Op, args): enqueues cpu::Op(pool, args) or launches cuda::Op(stream, args). The
// arguments are copied. Where CUDA is not built, cuda::Op is only declared: a discarded statement
// does not need it.
#define RUN_OP(stream, op, ...)                                                         \
  do {                                                                                  \
    if constexpr (kWithCuda) {                                                          \
      if (IsOnCuda(stream)) {                                                           \
        cuda::op(stream, __VA_ARGS__);                                                  \
        break;                                                                          \
      }                                                                                 \
    }                                                                                   \
    CpuStream::From(stream).Run([=](ThreadPool& pool) { cpu::op(pool, __VA_ARGS__); }); \
  } while (false)
