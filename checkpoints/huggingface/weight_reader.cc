#include "checkpoints/huggingface/weight_reader.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "checkpoints/huggingface/fp8_blocks.h"
#include "checkpoints/huggingface/name_map.h"
#include "kernels/core/dtype.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

constexpr int64_t kBufferElements = 1 << 20;

}  // namespace

absl::Status WeightReader::Read(const std::string& name, const std::vector<int64_t>& shape,
                                int64_t begin, std::span<float> out) {
  const int64_t end = begin + static_cast<int64_t>(out.size());
  TensorPiece piece{kMasterPrefix + name, DType::kF32, shape, begin, end};
  const TensorRecord* stored = reader_.Find(kWeightPrefix + name);
  if (reader_.Find(piece.tensor) != nullptr || stored == nullptr) {
    return reader_.Read(piece, out.data());
  }
  piece.tensor = stored->name();
  piece.dtype = *DTypeNamed(stored->dtype());
  for (int64_t at = begin; at < end; at = piece.end) {
    piece.begin = at;
    piece.end = std::min(end, at + kBufferElements);
    const std::span<float> part = out.subspan(at - begin, piece.num_elements());
    if (piece.dtype == DType::kBF16) {
      RETURN_IF_ERROR(ReadBf16(piece, part));
    } else if (piece.dtype == DType::kE4M3) {
      RETURN_IF_ERROR(ReadFp8(piece, part));
    } else {
      piece.dtype = DType::kF32;
      RETURN_IF_ERROR(reader_.Read(piece, part.data()));
    }
  }
  return absl::OkStatus();
}

absl::Status WeightReader::ReadBf16(const TensorPiece& piece, std::span<float> out) {
  buffer_.resize(piece.bytes());
  RETURN_IF_ERROR(reader_.Read(piece, buffer_.data()));
  for (size_t i = 0; i < out.size(); ++i) {
    kernels::BFloat16 value;
    std::memcpy(&value, buffer_.data() + 2 * i, sizeof value);
    out[i] = kernels::ToFloat(value);
  }
  return absl::OkStatus();
}

absl::Status WeightReader::ReadFp8(const TensorPiece& piece, std::span<float> out) {
  if (piece.global_shape.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", piece.tensor, ": found shape ",
                                                   ShapeText(piece.global_shape),
                                                   ", wanted rows and columns for FP8"));
  }
  const int64_t columns = piece.global_shape[1];
  if (scales_of_ != piece.tensor) {
    const std::vector<int64_t> blocks = {NumBlocks(piece.global_shape[0]), NumBlocks(columns)};
    scales_.resize(blocks[0] * blocks[1]);
    scales_of_.clear();
    RETURN_IF_ERROR(
        reader_.Read(WholeTensor(ScaleName(piece.tensor), DType::kF32, blocks), scales_.data()));
    scales_of_ = piece.tensor;
  }
  buffer_.resize(piece.bytes());
  RETURN_IF_ERROR(reader_.Read(piece, buffer_.data()));
  DecodeFp8({reinterpret_cast<const uint8_t*>(buffer_.data()), buffer_.size()}, piece.begin,
            columns, scales_, out.data());
  return absl::OkStatus();
}

}  // namespace sluice::checkpoints
