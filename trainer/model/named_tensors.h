// The tensors of a model by name and shape, without building it: what a checkpoint of it must hold.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/model/model.pb.h"

namespace sluice::trainer {

enum class TensorKind : uint8_t {
  kMatrix,     // a projection of attention, a dense network or an expert
  kOther,      // embedding, head, norms, gate, eh_proj
  kGateBias,   // <layer>.mlp.e_score_correction_bias, which is state and no parameter
  kEmbedCopy,  // an MTP layer's copy of the embedding: on disk only
  kHeadCopy,   // likewise of the head
};

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  TensorKind kind = TensorKind::kOther;
};

// In the order of the layers, MTP's last, then final norm and head; MTP layers have the copies that
// DeepSeek's files hold. A tied head is not there. `config` is resolved.
std::vector<NamedTensor> ListTensors(const ModelConfig& config);

}  // namespace sluice::trainer
