// A parameter's weights in the type that is wanted, on request with a LoRA adapter's product added.
//   O rows, I columns of a weight, r the adapter's rank
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/reader.h"
#include "kernels/core/dtype.h"

namespace sluice::checkpoints {

// Key of RunMetadata.state: alpha / rank, where tensors of adapters are present.
inline constexpr char kLoraScale[] = "lora_scale";

// "X.weight" -> "X.lora_A.weight".
std::string AdapterName(absl::string_view weight, absl::string_view part);

class AdaptedWeightReader {  // one thread
 public:
  enum class Adapters { kIgnore, kMerge };
  // `reader` outlives it.
  AdaptedWeightReader(CheckpointReader& reader, Adapters adapters);

  // Whether the checkpoint has this weight, under either prefix.
  bool Has(const std::string& name) const;
  // Whether it has an adapter for this weight.
  bool HasAdapter(const std::string& name) const;

  // out[i], i in [begin, end) of the row-major weight `name` of `shape`, as `dtype` (f32 | bf16;
  // rounded to nearest even): W, or with kMerge W + scale * B A in FP32. NOT_FOUND,
  // INVALID_ARGUMENT (another shape), DATA_LOSS as CheckpointReader::Read.
  absl::Status Read(const std::string& name, const std::vector<int64_t>& shape, int64_t begin,
                    int64_t end, kernels::DType dtype, void* out);

 private:
  absl::Status AddAdapter(const std::string& name, const std::vector<int64_t>& shape, int64_t begin,
                          int64_t end, float* out);

  CheckpointReader& reader_;
  WeightReader weights_;
  const Adapters adapters_;
  float scale_ = 0;
  std::string cached_;  // the weight whose A is in a_
  std::vector<float> a_, b_;
};

// Adds scale * B A to elements [begin, end) of W [O, I]; products summed over r in ascending order
// in FP32. `b` holds rows [begin / I, ...) of B.
struct MergeLoraArgs {
  int64_t columns = 0, rank = 0;  // I, r
  float scale = 1;                // alpha / r
  const float* a = nullptr;       // [r, I]
  const float* b = nullptr;       // [rows touched, r], the first is row begin / I
  int64_t begin = 0, end = 0;
  float* w = nullptr;  // elements [begin, end)
};
void MergeLora(const MergeLoraArgs& args);

}  // namespace sluice::checkpoints
