// Learning rate and weight decay by parameter: train.rules.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/shard/sharded_adamw.h"
#include "trainer/loop/run_config.pb.h"
#include "trainer/model/name_pattern.h"

namespace sluice::trainer {

class ParameterRules {
 public:
  // INVALID_ARGUMENT: field, found, wanted.
  static absl::StatusOr<ParameterRules> Create(const TrainConfig& config);
  // Settings of the first rule that matches `name`; none matches: `segment` stays.
  void Apply(const std::string& name, parallel::FlatSegment& segment) const;

 private:
  struct Rule {
    NamePattern match;
    float learning_rate_scale = 1, weight_decay = -1;
  };
  std::vector<Rule> rules_;
};

}  // namespace sluice::trainer
