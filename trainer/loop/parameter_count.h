// How many parameters a model has, counted on the modules themselves.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "trainer/model/model.pb.h"

namespace sluice::trainer {

struct ParameterCounts {
  int64_t total = 0;  // the main model with embedding, head and the gates' selection bias
  int64_t active =
      0;  // of them used by one token: top-k of the routed experts; with embedding and head
  int64_t mtp = 0;  // of the MTP modules, without their copies of embedding and head
};

absl::StatusOr<ParameterCounts> CountParameters(const ModelConfig& model);

}  // namespace sluice::trainer
