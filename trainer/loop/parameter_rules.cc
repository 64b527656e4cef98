#include "trainer/loop/parameter_rules.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {

absl::StatusOr<ParameterRules> ParameterRules::Create(const TrainConfig& config) {
  ParameterRules rules;
  for (const ParameterRule& written : config.rules()) {
    Rule rule;
    if (written.match().empty()) {
      return absl::InvalidArgumentError(
          "train.rules.match: found nothing, wanted a regular expression");
    }
    ASSIGN_OR_RETURN(rule.match, NamePattern::Create("train.rules.match", written.match()));
    if (written.has_lr_multiplier()) {
      rule.learning_rate_scale = static_cast<float>(written.lr_multiplier());
    }
    if (written.has_weight_decay()) rule.weight_decay = static_cast<float>(written.weight_decay());
    if (!(written.lr_multiplier() >= 0) || !(written.weight_decay() >= 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "train.rules of \"", written.match(), "\": found lr_multiplier ", written.lr_multiplier(),
          " and weight_decay ", written.weight_decay(), ", wanted 0 or more"));
    }
    rules.rules_.push_back(std::move(rule));
  }
  return rules;
}

void ParameterRules::Apply(const std::string& name, parallel::FlatSegment& segment) const {
  for (const Rule& rule : rules_) {
    if (!rule.match.IsFoundIn(name)) continue;
    segment.learning_rate_scale = rule.learning_rate_scale;
    segment.weight_decay = rule.weight_decay;
    return;
  }
}

}  // namespace sluice::trainer
