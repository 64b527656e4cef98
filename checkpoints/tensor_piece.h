// A piece of a tensor: a flat range of its row-major elements. The unit in which tensors are
// written, read and digested.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/dtype.h"

namespace sluice::checkpoints {

struct TensorPiece {
  std::string tensor;  // any non-empty name
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> global_shape;  // of the whole tensor; empty: a scalar, one element
  int64_t begin = 0, end = 0;         // elements of the flat tensor; may be empty

  int64_t num_elements() const { return end - begin; }
  int64_t bytes() const { return num_elements() * static_cast<int64_t>(kernels::SizeOf(dtype)); }
};

// The whole tensor as one piece.
TensorPiece WholeTensor(absl::string_view tensor, kernels::DType dtype,
                        std::vector<int64_t> global_shape);

// The product of the extents; INVALID_ARGUMENT for a negative one or if the tensor's bytes pass
// 2^62.
absl::StatusOr<int64_t> NumElements(std::span<const int64_t> shape);

// INVALID_ARGUMENT, naming the tensor, unless the name is there, the shape makes sense and
// 0 <= begin <= end <= elements.
absl::Status CheckPiece(const TensorPiece& piece);

// The dtype called `name` by kernels::NameOf.
std::optional<kernels::DType> DTypeNamed(absl::string_view name);

std::string ShapeText(std::span<const int64_t> shape);  // "[4, 128]"

}  // namespace sluice::checkpoints
