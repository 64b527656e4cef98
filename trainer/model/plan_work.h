// A model as the planner sees it: floating-point operations and elements a layer.
#pragma once

#include "parallel/plan/model_work.h"
#include "trainer/model/model.pb.h"

namespace sluice::trainer {

// `config` is resolved and valid.
parallel::ModelWork DescribeWork(const ModelConfig& config, int64_t sequence_length);

}  // namespace sluice::trainer
