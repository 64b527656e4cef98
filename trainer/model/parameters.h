// The parameters that live on one rank: names, places in the flat arrays, initial values.
//
// A parameter is one tensor as the kernels read it (gate and up projection fused, all local experts
// in one). It is tiled by pieces of *named* tensors, which are Hugging Face's, one an expert:
// checkpoints, digests and initial values know only those, so nothing outside depends on how
// tensors are fused or sharded.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor_view.h"

namespace sluice::trainer {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::Shape;
using kernels::TensorView;

// Elements [begin, begin + count) of the named tensor, row-major, lie at [offset, offset + count)
// of the parameter.
struct NamedPiece {
  std::string name;
  std::vector<int64_t> shape;  // of the whole named tensor
  int64_t begin = 0, offset = 0, count = 0;
};

enum class ParameterGroup : uint8_t { kDense, kExpert };  // replicated over data | over expert_data
inline constexpr int kNumParameterGroups = 2;

struct Parameter {
  std::vector<NamedPiece> pieces;  // tile it, ascending in offset
  Shape shape;
  ParameterGroup group = ParameterGroup::kDense;
  bool decay = true;     // matrices and embeddings; not norms
  bool is_norm = false;  // initialised to 1
  bool tied_copy =
      false;  // a second copy of a tensor of the first stage: not stored, not counted in the norm

  int64_t offset = 0;   // in its group's flat arrays
  TensorView value;     // compute dtype
  TensorView gradient;  // f32
};

class ParameterStore {
 public:
  // Before Allocate. The reference stays valid.
  Parameter& Add(Parameter parameter);
  // One named tensor, nothing fused.
  Parameter& AddTensor(const std::string& name, std::vector<int64_t> shape, bool decay = true);
  Parameter& AddNorm(const std::string& name, int64_t width);
  Parameter* Find(const std::string& piece_name);  // the parameter with this named piece, or null

  // Lays out and allocates values and gradients; each group's length is padded to a multiple of
  // multiple_of[group].
  absl::Status Allocate(kernels::DeviceContext& device, DType value_dtype,
                        const int64_t (&multiple_of)[kNumParameterGroups]);

  TensorView values(ParameterGroup group) const { return values_[static_cast<int>(group)]; }
  TensorView gradients(ParameterGroup group) const { return gradients_[static_cast<int>(group)]; }
  int64_t flat_size(ParameterGroup group) const { return flat_size_[static_cast<int>(group)]; }
  const std::vector<std::unique_ptr<Parameter>>& parameters() const { return parameters_; }
  int64_t num_elements() const;  // without tied copies and padding

  // Calls visit(parameter, piece, piece_begin, flat_begin, count) for every run of named elements
  // inside [begin, end) of the group's flat array: elements [piece_begin, piece_begin + count) of
  // the *named tensor*.
  using RunVisitor = std::function<void(const Parameter&, const NamedPiece&, int64_t named_begin,
                                        int64_t flat_begin, int64_t count)>;
  void ForEachRun(ParameterGroup group, int64_t begin, int64_t end, const RunVisitor& visit) const;

 private:
  std::vector<std::unique_ptr<Parameter>> parameters_;
  int64_t flat_size_[kNumParameterGroups] = {};
  kernels::Buffer value_storage_[kNumParameterGroups], gradient_storage_[kNumParameterGroups];
  TensorView values_[kNumParameterGroups], gradients_[kNumParameterGroups];
};

// Initial value of elements [begin, begin + count) of a named tensor: 1 for norms, else normal with
// the given standard deviation. A pure function of (seed, name, index), so it does not depend on
// the layout. Box-Muller on Philox.
void InitialValues(uint64_t seed, const std::string& name, bool is_norm, double standard_deviation,
                   int64_t begin, int64_t count, float* out);

}  // namespace sluice::trainer
