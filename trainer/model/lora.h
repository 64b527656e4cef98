// Low-rank adapters (LoRA: Hu et al., arXiv 2106.09685): y += s B A dropout(x) beside a frozen
// linear layer y = W x, s = alpha / r.   T rows, I inputs, O outputs, r rank, M modules
//
// A fused weight holds several of Hugging Face's modules, each with its own A and B as PEFT has
// them. They read the same x, so their A's are one weight [M r, I] and one product; each B [O_m, r]
// makes its own rows of y. The modules of a fused weight share one dropout mask (PEFT draws one for
// each).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/model/context.h"
#include "trainer/model/finetune.pb.h"
#include "trainer/model/linear.h"
#include "trainer/model/name_pattern.h"
#include "trainer/model/parameters.h"

namespace sluice::trainer {

class LowRankAdapter {
 public:
  // The adapter of the modules of `weight` that `targets` finds; null if there is none. Adds its
  // weights to the store. INVALID_ARGUMENT if targets finds a module in some experts only.
  static absl::StatusOr<std::unique_ptr<LowRankAdapter>> Create(const LoraConfig& config,
                                                                const NamePattern& targets,
                                                                const Parameter& weight,
                                                                ParameterStore& store,
                                                                TapeLayout& layout);

  absl::Status Allocate(kernels::DeviceContext& device, DType dtype);
  void Repack(Stream& stream);

  // With experts `offsets` are those of the rows; null otherwise.
  // y [T, O] += s B A dropout(x [T, I]). May be called again before the backward, with the same x.
  void Forward(const Context& context, ConstTensorView x, ConstTensorView offsets, TensorView y);
  // dx [T, I] += the gradient through A and B of dy [T, O].
  void BackwardInput(const Context& context, ConstTensorView dy, ConstTensorView offsets,
                     TensorView dx);
  // Adds to the gradients of A and B; x and dy as before.
  void BackwardWeight(const Context& context, ConstTensorView dy, ConstTensorView x,
                      ConstTensorView offsets);

 private:
  struct Module {
    int64_t first_row = 0, num_rows = 0;  // of y
    std::unique_ptr<Linear> b;
  };
  LowRankAdapter(const LoraConfig& config, std::string name, Parameter& a, TapeLayout& layout);
  // dropout(x), in `out`; x itself where nothing is dropped.
  ConstTensorView Dropped(const Context& context, ConstTensorView x, TensorView out) const;
  bool drops(const Context& context) const { return context.training && dropout_ > 0; }

  const int64_t rank_;
  const float scale_, dropout_;
  const uint64_t stream_;  // of the dropout: by name, without the experts' numbers
  Linear a_;
  std::vector<Module> modules_;
  SlotId h_, dh_;  // s A x, s B^T dy: [T, M r]
};

}  // namespace sluice::trainer
