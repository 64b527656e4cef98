#include "trainer/model/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/cast.h"

namespace sluice::trainer {
namespace {

constexpr int64_t kAlignment = 32;  // elements between parameter starts: 64 bytes in BF16

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

DType DTypeOf(FrozenAs as, DType value_dtype) {
  if (as == FrozenAs::kCodes) return DType::kE4M3;
  return as == FrozenAs::kScales ? DType::kF32 : value_dtype;
}

int64_t Product(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (int64_t extent : shape) product *= extent;
  return product;
}

}  // namespace

uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

Parameter& ParameterStore::Add(Parameter parameter) {
  int64_t covered = 0;
  for (const NamedPiece& piece : parameter.pieces) {
    CHECK_EQ(piece.offset, covered) << piece.name;
    covered += piece.count;
  }
  CHECK_EQ(covered, parameter.shape.num_elements()) << parameter.pieces[0].name;
  size_t num_trained = 0;
  for (NamedPiece& piece : parameter.pieces) {
    piece.trained = !is_trained_ || is_trained_(piece.name);
    num_trained += piece.trained ? 1 : 0;
  }
  parameter.trained = num_trained == parameter.pieces.size();
  parameters_.push_back(std::make_unique<Parameter>(std::move(parameter)));
  Parameter& added = *parameters_.back();
  if (num_trained > 0 && !added.trained) AddTrainedPart(added);
  return added;
}

// The rows of the trained pieces, one after the other.
void ParameterStore::AddTrainedPart(Parameter& mixed) {
  auto part = std::make_unique<Parameter>();
  part->group = mixed.group;
  part->decay = mixed.decay;
  part->tied_copy = mixed.tied_copy;
  const int64_t row = mixed.shape.elements_per_row();
  int64_t count = 0, end = -1;  // of the elements taken so far; of the last piece in `mixed`
  for (const NamedPiece& piece : mixed.pieces) {
    if (!piece.trained) continue;
    part->pieces.push_back(piece);
    part->pieces.back().offset = count;
    std::vector<TrainedRows>& rows = mixed.trained_rows;
    if (piece.offset != end) {
      CHECK_EQ(piece.offset % row, 0) << piece.name << ": a row is trained whole or not at all";
      rows.push_back({piece.offset / row, 0, {}});
    }
    count += piece.count;
    // Pieces of one expert add up to a row.
    end = piece.offset + piece.count;
    rows.back().count = end / row - rows.back().first;
  }
  CHECK_EQ(count % row, 0) << mixed.pieces[0].name << ": a row is trained whole or not at all";
  int64_t num_rows = 0;
  for (const TrainedRows& rows : mixed.trained_rows) num_rows += rows.count;
  CHECK_EQ(num_rows * row, count) << mixed.pieces[0].name
                                  << ": a row is trained whole or not at all";
  const Shape& shape = mixed.shape;
  part->shape = shape.rank() == 3 ? Shape{num_rows, shape[1], shape[2]} : Shape{num_rows, shape[1]};
  parameters_.push_back(std::move(part));
  mixed.trained_part = parameters_.back().get();
}

Parameter& ParameterStore::AddTensor(const std::string& name, std::vector<int64_t> shape,
                                     bool decay) {
  const int64_t count = Product(shape);
  Parameter parameter;
  parameter.shape = shape.size() == 1 ? Shape{shape[0]} : Shape{shape[0], shape[1]};
  parameter.pieces = {{name, std::move(shape), 0, 0, count}};
  parameter.decay = decay;
  return Add(std::move(parameter));
}

Parameter& ParameterStore::AddNorm(const std::string& name, int64_t width) {
  Parameter& parameter = AddTensor(name, {width}, /*decay=*/false);
  parameter.is_norm = true;
  return parameter;
}

Parameter* ParameterStore::Find(const std::string& piece_name) {
  for (const auto& parameter : parameters_) {
    for (const NamedPiece& piece : parameter->pieces) {
      if (piece.name == piece_name) return parameter.get();
    }
  }
  return nullptr;
}

void ParameterStore::KeepQuantized(Parameter& weight, Parameter scales) {
  CHECK(weight.is_frozen() && !weight.is_quantized()) << weight.pieces[0].name;
  scales.group = weight.group;
  scales.trained = false;
  scales.frozen_as = FrozenAs::kScales;
  for (NamedPiece& piece : scales.pieces) piece.trained = false;
  parameters_.push_back(std::make_unique<Parameter>(std::move(scales)));
  weight.frozen_as = FrozenAs::kCodes;
  weight.scales = parameters_.back().get();
}

absl::Status ParameterStore::Allocate(kernels::DeviceContext& device, DType value_dtype,
                                      const int64_t (&multiple_of)[kNumParameterGroups]) {
  int64_t frozen_size[kNumParameterGroups][kNumFrozenKinds] = {};
  for (const auto& parameter : parameters_) {
    const int group = static_cast<int>(parameter->group);
    int64_t& size = parameter->trained ? flat_size_[group]
                                       : frozen_size[group][static_cast<int>(parameter->frozen_as)];
    parameter->offset = size;
    size = RoundUp(size + parameter->shape.num_elements(), kAlignment);
  }
  for (int group = 0; group < kNumParameterGroups; ++group) {
    const auto padded = [&](int64_t n) { return RoundUp(n, kAlignment * multiple_of[group]); };
    const int64_t n = flat_size_[group] = padded(flat_size_[group]);
    const auto bytes = [](int64_t elements, DType dtype) {
      return static_cast<size_t>(elements) * kernels::SizeOf(dtype);
    };
    ASSIGN_OR_RETURN(value_storage_[group],
                     device.Allocate(bytes(n, value_dtype), kernels::MemoryTag::kParameters));
    ASSIGN_OR_RETURN(gradient_storage_[group],
                     device.Allocate(bytes(n, DType::kF32), kernels::MemoryTag::kGradients));
    for (const FrozenAs as : {FrozenAs::kValues, FrozenAs::kCodes, FrozenAs::kScales}) {
      const int kind = static_cast<int>(as);
      const int64_t frozen = padded(frozen_size[group][kind]);
      const DType dtype = DTypeOf(as, value_dtype);
      kernels::Buffer& storage = frozen_storage_[group][kind];
      ASSIGN_OR_RETURN(storage,
                       device.Allocate(bytes(frozen, dtype), kernels::MemoryTag::kParameters));
      frozen_values_[group][kind] = storage.View(dtype, {frozen});
    }
    values_[group] = value_storage_[group].View(value_dtype, {n});
    gradients_[group] = gradient_storage_[group].View(DType::kF32, {n});
  }
  for (const auto& parameter : parameters_) {
    const int group = static_cast<int>(parameter->group);
    const int64_t n = parameter->shape.num_elements();
    const TensorView values =
        parameter->trained ? values_[group] : frozen_values(parameter->group, parameter->frozen_as);
    parameter->value = values.Rows(parameter->offset, n).Reshape(parameter->shape);
    if (!parameter->trained) continue;
    parameter->gradient = gradients_[group].Rows(parameter->offset, n).Reshape(parameter->shape);
    parameter->trained_rows = {{0, parameter->shape[0], parameter->gradient}};
  }
  for (const auto& parameter : parameters_) {
    int64_t first = 0;
    if (parameter->trained_part == nullptr) continue;
    for (TrainedRows& rows : parameter->trained_rows) {
      rows.gradient = parameter->trained_part->gradient.Rows(first, rows.count);
      first += rows.count;
    }
  }
  return absl::OkStatus();
}

int64_t ParameterStore::num_elements() const {
  int64_t total = 0;
  for (const auto& parameter : parameters_) {
    if (parameter->tied_copy || parameter->frozen_as == FrozenAs::kScales) continue;
    total += parameter->shape.num_elements();
    if (parameter->trained_part != nullptr) {
      total -= parameter->trained_part->shape.num_elements();
    }
  }
  return total;
}

int64_t ParameterStore::num_trained_elements() const {
  int64_t total = 0;
  for (const auto& parameter : parameters_) {
    if (parameter->trained && !parameter->tied_copy) total += parameter->shape.num_elements();
  }
  return total;
}

void ParameterStore::CopyTrainedParts(kernels::Stream& stream) const {
  for (const auto& parameter : parameters_) {
    int64_t first = 0;
    if (parameter->trained_part == nullptr) continue;
    for (const TrainedRows& rows : parameter->trained_rows) {
      kernels::Cast(stream, {.from = parameter->trained_part->value.Rows(first, rows.count),
                             .to = parameter->value.Rows(rows.first, rows.count)});
      first += rows.count;
    }
  }
}

void ParameterStore::Visit(const Array& array, int64_t begin, int64_t end,
                           const RunVisitor& visit) const {
  for (const auto& parameter : parameters_) {
    if (!array.Holds(*parameter)) continue;
    for (const NamedPiece& piece : parameter->pieces) {
      if (piece.trained != array.trained) continue;
      const int64_t piece_begin = parameter->offset + piece.offset;
      const int64_t from = std::max(begin, piece_begin),
                    to = std::min(end, piece_begin + piece.count);
      if (from < to) visit(*parameter, piece, piece.begin + from - piece_begin, from, to - from);
    }
  }
}

void ParameterStore::ForEachRun(ParameterGroup group, int64_t begin, int64_t end,
                                const RunVisitor& visit) const {
  Visit({.group = group, .trained = true}, begin, end, visit);
}

void ParameterStore::ForEachFrozenRun(ParameterGroup group, FrozenAs as, int64_t begin, int64_t end,
                                      const RunVisitor& visit) const {
  Visit({.group = group, .trained = false, .as = as}, begin, end, visit);
}

void InitialValues(uint64_t seed, const std::string& name, bool is_norm, double standard_deviation,
                   int64_t begin, int64_t count, float* out) {
  if (is_norm) {
    std::fill(out, out + count, 1.0f);
    return;
  }
  const uint64_t key = PhiloxKey(seed, RandomPurpose::kInit), stream = HashName(name);
  for (int64_t pair = begin / 2; 2 * pair < begin + count; ++pair) {
    const auto words = Philox(key, static_cast<uint64_t>(pair), stream);
    // Two normals from two uniforms (Box and Muller 1958); u1 lies in (0, 1].
    const double u1 = (words[0] + 1.0) * 0x1p-32, u2 = words[1] * 0x1p-32;
    const double radius = standard_deviation * std::sqrt(-2.0 * std::log(u1));
    const double angle = 2.0 * std::numbers::pi * u2;
    const int64_t i = 2 * pair - begin;
    if (i >= 0) out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

void InitialValues(kernels::ThreadPool& pool, uint64_t seed, const std::string& name, bool is_norm,
                   double standard_deviation, int64_t begin, int64_t count, float* out) {
  constexpr int64_t kGrain = 1 << 16;
  pool.ParallelRanges(count, kGrain, [&](int64_t from, int64_t to) {
    InitialValues(seed, name, is_norm, standard_deviation, begin + from, to - from, out + from);
  });
}

}  // namespace sluice::trainer
