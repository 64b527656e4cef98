// Dense products by NVIDIA's cuBLASLt, a peer of ours. Loaded when it is created; nothing links it.
// M rows, K contracted, N columns
//
// BF16, and E4M3 with a scale for 1 x 128 of a (VEC128_32F) and for 128 x 128 of b
// (BLK128x128_32F), which cuBLASLt has since 12.9 on Hopper. Grouped products are not its.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/stream.h"
#include "kernels/vendor/dense_product.h"

namespace sluice::kernels::vendor {

// Where the operands of a product lie. Scales of e4m3 only, in the layout of cuBLASLt: a's
// [ceil(K / 128), M], b's [ceil(N / 128), BlockScaleRow(K)]; both at a multiple of 16 bytes.
struct DensePointers {
  const void *a = nullptr, *b = nullptr;
  void* c = nullptr;
  const float *a_scales = nullptr, *b_scales = nullptr;
};

class CublasLt {
 public:
  // `libraries` as in NcclOptions. FAILED_PRECONDITION: none can be loaded, or it lacks a function.
  // With `device` false no handle is made: descriptors can be, products cannot.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Create(
      bool device = true, const std::vector<std::string>& libraries = {});
  virtual ~CublasLt() = default;

  // Makes what the library needs for a product, with or without a device. Errors are its own.
  virtual absl::Status Describe(const DenseProduct& product) = 0;
  // Enqueues it on a CUDA stream. The first call of a shape asks the library for an algorithm.
  // Products of one CublasLt share a workspace and so belong to one stream at a time.
  virtual absl::Status Run(const DenseProduct& product, const DensePointers& pointers,
                           Stream& stream) = 0;
  virtual std::string Version() const = 0;  // "13.1.0"
};

}  // namespace sluice::kernels::vendor
