#include "trainer/model/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/philox.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {
namespace {

constexpr int64_t kAlignment = 32;  // elements between parameter starts: 64 bytes in BF16

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

int64_t Product(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (int64_t extent : shape) product *= extent;
  return product;
}

// FNV-1a: the stream of a tensor's random numbers is chosen by its name.
uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

}  // namespace

Parameter& ParameterStore::Add(Parameter parameter) {
  int64_t covered = 0;
  for (const NamedPiece& piece : parameter.pieces) {
    CHECK_EQ(piece.offset, covered) << piece.name;
    covered += piece.count;
  }
  CHECK_EQ(covered, parameter.shape.num_elements()) << parameter.pieces[0].name;
  parameters_.push_back(std::make_unique<Parameter>(std::move(parameter)));
  return *parameters_.back();
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

absl::Status ParameterStore::Allocate(kernels::DeviceContext& device, DType value_dtype,
                                      const int64_t (&multiple_of)[kNumParameterGroups]) {
  for (const auto& parameter : parameters_) {
    int64_t& size = flat_size_[static_cast<int>(parameter->group)];
    parameter->offset = size;
    size = RoundUp(size + parameter->shape.num_elements(), kAlignment);
  }
  for (int group = 0; group < kNumParameterGroups; ++group) {
    flat_size_[group] = RoundUp(flat_size_[group], kAlignment * multiple_of[group]);
    const size_t n = static_cast<size_t>(flat_size_[group]);
    ASSIGN_OR_RETURN(value_storage_[group], device.Allocate(n * kernels::SizeOf(value_dtype),
                                                            kernels::MemoryTag::kParameters));
    ASSIGN_OR_RETURN(gradient_storage_[group],
                     device.Allocate(n * 4, kernels::MemoryTag::kGradients));
    values_[group] = value_storage_[group].View(value_dtype, {flat_size_[group]});
    gradients_[group] = gradient_storage_[group].View(DType::kF32, {flat_size_[group]});
  }
  for (const auto& parameter : parameters_) {
    const int group = static_cast<int>(parameter->group);
    const int64_t n = parameter->shape.num_elements();
    parameter->value = values_[group].Rows(parameter->offset, n).Reshape(parameter->shape);
    parameter->gradient = gradients_[group].Rows(parameter->offset, n).Reshape(parameter->shape);
  }
  return absl::OkStatus();
}

int64_t ParameterStore::num_elements() const {
  int64_t total = 0;
  for (const auto& parameter : parameters_) {
    if (!parameter->tied_copy) total += parameter->shape.num_elements();
  }
  return total;
}

void ParameterStore::ForEachRun(ParameterGroup group, int64_t begin, int64_t end,
                                const RunVisitor& visit) const {
  for (const auto& parameter : parameters_) {
    if (parameter->group != group) continue;
    for (const NamedPiece& piece : parameter->pieces) {
      const int64_t piece_begin = parameter->offset + piece.offset;
      const int64_t from = std::max(begin, piece_begin),
                    to = std::min(end, piece_begin + piece.count);
      if (from < to) visit(*parameter, piece, piece.begin + from - piece_begin, from, to - from);
    }
  }
}

void InitialValues(uint64_t seed, const std::string& name, bool is_norm, double standard_deviation,
                   int64_t begin, int64_t count, float* out) {
  if (is_norm) {
    std::fill(out, out + count, 1.0f);
    return;
  }
  const uint64_t key = PhiloxKey(seed, RandomPurpose::kInit), stream = HashName(name);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = begin + i;
    const auto words = Philox(key, static_cast<uint64_t>(index / 2), stream);
    // Two normals from two uniforms (Box and Muller 1958); u1 lies in (0, 1].
    const double u1 = (words[0] + 1.0) * 0x1p-32, u2 = words[1] * 0x1p-32;
    const double radius = standard_deviation * std::sqrt(-2.0 * std::log(u1));
    const double angle = 2.0 * std::numbers::pi * u2;
    out[i] = static_cast<float>(radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
  }
}

}  // namespace sluice::trainer
