// The parameters that live on one rank: names, places in the flat arrays, initial values.
//
// A parameter is one tensor as the kernels read it (gate and up projection fused, all local experts
// in one). It is tiled by pieces of *named* tensors, which are Hugging Face's, one an expert:
// checkpoints, digests and initial values know only those, so nothing outside depends on how
// tensors are fused or sharded.
//
// Trained and frozen. A named tensor is trained or not (fine-tuning freezes some). Of each group,
// trained tensors lie in the flat arrays that the optimizer shards, with gradients; frozen ones in
// an array of values only. A fused parameter of which some named tensors are trained (some experts
// of a layer) lies with the frozen ones; its trained rows are a parameter of their own, its
// `trained_part`, whose values are copied in after each update.
//
// A frozen matrix may be kept as an FP8 checkpoint has it (KeepQuantized): E4M3 codes, and block
// scales, which are a parameter of their own. Then it has no values.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor_view.h"
#include "kernels/core/thread_pool.h"

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
  bool trained = true;
  bool copy = false;  // the same elements are in a piece before this one: loaded, not stored
};

enum class ParameterGroup : uint8_t { kDense, kExpert };  // replicated over data | over expert_data
inline constexpr int kNumParameterGroups = 2;

// What a frozen parameter's elements are: of the compute dtype, E4M3 codes, or FP32 block scales.
enum class FrozenAs : uint8_t { kValues, kCodes, kScales };
inline constexpr int kNumFrozenKinds = 3;

// Consecutive rows of a parameter (experts, where it has three dimensions) that are trained.
struct TrainedRows {
  int64_t first = 0, count = 0;
  TensorView gradient;  // [count, ...] f32
};

struct Parameter {
  std::vector<NamedPiece> pieces;  // tile it, ascending in offset
  Shape shape;
  ParameterGroup group = ParameterGroup::kDense;
  bool decay = true;     // matrices and embeddings; not norms
  bool is_norm = false;  // initialised to 1
  bool tied_copy =
      false;  // a second copy of a tensor of the first stage: not stored, not counted in the norm
  double initial_deviation = -1;  // of normal initial values; negative: the model's

  bool trained = true;                // all of it: lies in the optimizer's arrays
  Parameter* trained_part = nullptr;  // of a parameter that is trained in part
  FrozenAs frozen_as = FrozenAs::kValues;
  Parameter* scales = nullptr;  // of one that is kept as codes
  int64_t offset = 0;           // in its group's flat array of trained or of its frozen kind
  TensorView value;             // compute dtype; codes or scales: as they are
  TensorView gradient;          // f32; null unless `trained`
  std::vector<TrainedRows> trained_rows;  // all rows, some, or none
  bool is_frozen() const { return !trained && trained_part == nullptr; }
  bool is_quantized() const { return scales != nullptr; }
};

class ParameterStore {
 public:
  // Which named tensors are trained; before the first Add. Without it all are.
  using IsTrained = std::function<bool(const std::string& name)>;
  void set_is_trained(IsTrained is_trained) { is_trained_ = std::move(is_trained); }

  // Before Allocate. The reference stays valid. Of a parameter with three dimensions an expert is
  // trained whole or not at all.
  Parameter& Add(Parameter parameter);
  // One named tensor, nothing fused.
  Parameter& AddTensor(const std::string& name, std::vector<int64_t> shape, bool decay = true);
  Parameter& AddNorm(const std::string& name, int64_t width);
  Parameter* Find(const std::string& piece_name);  // the parameter with this named piece, or null

  // Before Allocate: the frozen `weight` is kept as codes, with `scales`.
  void KeepQuantized(Parameter& weight, Parameter scales);

  // Lays out and allocates values and gradients; each array's length is padded to a multiple of
  // multiple_of[group].
  absl::Status Allocate(kernels::DeviceContext& device, DType value_dtype,
                        const int64_t (&multiple_of)[kNumParameterGroups]);

  // Of trained parameters: what the optimizer shards.
  TensorView values(ParameterGroup group) const { return values_[static_cast<int>(group)]; }
  TensorView gradients(ParameterGroup group) const { return gradients_[static_cast<int>(group)]; }
  int64_t flat_size(ParameterGroup group) const { return flat_size_[static_cast<int>(group)]; }
  // Of frozen ones (and of the trained rows of mixed ones, which are copies).
  TensorView frozen_values(ParameterGroup group, FrozenAs as = FrozenAs::kValues) const {
    return frozen_values_[static_cast<int>(group)][static_cast<int>(as)];
  }
  const std::vector<std::unique_ptr<Parameter>>& parameters() const { return parameters_; }
  int64_t num_elements() const;  // without tied copies, scales and padding
  int64_t num_trained_elements() const;
  // Copies trained rows of mixed parameters to where kernels read them: after values changed.
  void CopyTrainedParts(kernels::Stream& stream) const;

  // Calls visit(parameter, piece, piece_begin, flat_begin, count) for every run of named elements
  // inside [begin, end) of the group's flat array: elements [piece_begin, piece_begin + count) of
  // the *named tensor*.
  using RunVisitor = std::function<void(const Parameter&, const NamedPiece&, int64_t named_begin,
                                        int64_t flat_begin, int64_t count)>;
  void ForEachRun(ParameterGroup group, int64_t begin, int64_t end, const RunVisitor& visit) const;
  // The same for an array of frozen values; trained pieces are left out.
  void ForEachFrozenRun(ParameterGroup group, FrozenAs as, int64_t begin, int64_t end,
                        const RunVisitor& visit) const;

 private:
  // What lies in one flat array.
  struct Array {
    ParameterGroup group;
    bool trained;
    FrozenAs as = FrozenAs::kValues;
    bool Holds(const Parameter& parameter) const {
      return parameter.group == group && parameter.trained == trained && parameter.frozen_as == as;
    }
  };
  void Visit(const Array& array, int64_t begin, int64_t end, const RunVisitor& visit) const;
  void AddTrainedPart(Parameter& mixed);

  IsTrained is_trained_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
  int64_t flat_size_[kNumParameterGroups] = {};
  kernels::Buffer value_storage_[kNumParameterGroups], gradient_storage_[kNumParameterGroups];
  TensorView values_[kNumParameterGroups], gradients_[kNumParameterGroups];
  kernels::Buffer frozen_storage_[kNumParameterGroups][kNumFrozenKinds];
  TensorView frozen_values_[kNumParameterGroups][kNumFrozenKinds];
};

// FNV-1a: the stream of a tensor's random numbers is chosen by its name.
uint64_t HashName(const std::string& name);

// Initial value of elements [begin, begin + count) of a named tensor: 1 for norms, else normal with
// the given standard deviation. A pure function of (seed, name, index), so it does not depend on
// the layout. Box-Muller on Philox.
void InitialValues(uint64_t seed, const std::string& name, bool is_norm, double standard_deviation,
                   int64_t begin, int64_t count, float* out);
// The same on the threads of `pool`.
void InitialValues(kernels::ThreadPool& pool, uint64_t seed, const std::string& name, bool is_norm,
                   double standard_deviation, int64_t begin, int64_t count, float* out);

}  // namespace sluice::trainer
