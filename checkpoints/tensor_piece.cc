#include "checkpoints/tensor_piece.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {

using kernels::DType;

TensorPiece WholeTensor(absl::string_view tensor, DType dtype, std::vector<int64_t> global_shape) {
  absl::StatusOr<int64_t> elements = NumElements(global_shape);
  CHECK(elements.ok()) << elements.status().ToString();
  return {std::string(tensor), dtype, std::move(global_shape), 0, *elements};
}

absl::StatusOr<int64_t> NumElements(std::span<const int64_t> shape) {
  constexpr int64_t kMost = int64_t{1} << 59;  // times 8 bytes is 2^62
  int64_t elements = 1;
  bool is_empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return absl::InvalidArgumentError(absl::StrCat("negative extent ", extent));
    is_empty |= extent == 0;
    if (extent > 0 && elements > kMost / extent)
      return absl::InvalidArgumentError(absl::StrCat("too many elements in ", ShapeText(shape)));
    if (extent > 0) elements *= extent;
  }
  return is_empty ? 0 : elements;
}

absl::Status CheckPiece(const TensorPiece& piece) {
  if (piece.tensor.empty()) return absl::InvalidArgumentError("a tensor has no name");
  absl::StatusOr<int64_t> elements = NumElements(piece.global_shape);
  if (!elements.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", piece.tensor, ": ", elements.status().message()));
  }
  if (piece.begin < 0 || piece.begin > piece.end || piece.end > *elements) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", piece.tensor, ": elements [",
                                                   piece.begin, ", ", piece.end,
                                                   ") do not lie in [0, ", *elements, ")"));
  }
  return absl::OkStatus();
}

std::optional<DType> DTypeNamed(absl::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU8,
                            DType::kF64, DType::kE4M3}) {
    if (kernels::NameOf(dtype) == name) return dtype;
  }
  return std::nullopt;
}

std::string ShapeText(std::span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace sluice::checkpoints
