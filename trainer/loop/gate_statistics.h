// How much a task uses each expert, and which experts to train for it: expert-specialised
// fine-tuning (ESFT: Wang et al., "Let the Expert Stick to His Last", arXiv 2407.01906, section 3).
//   M gates (MoE layers), E experts, K per token, N tokens
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/run_data.h"
#include "trainer/model/finetune.pb.h"

namespace sluice::trainer {

struct GateUse {
  int layer = 0;
  std::vector<int64_t> chosen;  // [E] tokens routed to each
  std::vector<double> weight;   // [E] sums of the weight with which it was chosen
  int64_t tokens = 0;           // N
  // [E], each adds up to 1: the average gate score g_e / sum of g (ESFT equation 7, made a share
  // as families differ in what their weights add up to), and the token selection ratio
  // chosen / (N K) (equation 8).
  std::vector<double> GateShare() const;
  std::vector<double> TokenShare() const;
};

// Forward passes over `batches` global batches (0: all) of the validation data; a sequence counts
// up to its last target. Sums are taken by sequence in token order, so every layout agrees.
// Collective.
absl::StatusOr<std::vector<GateUse>> MeasureGateUse(RankModel& model, const RunData& data,
                                                    int64_t batches);

// The fewest experts whose shares reach `fraction` together, those with the largest share first,
// of equal ones the lower number (equation 9). Ascending.
std::vector<int> ChooseExperts(const std::vector<double>& share, double fraction);

// What is chosen in each layer, by gate share or token share.
enum class ExpertScore { kGate, kToken };
std::vector<LayerExperts> ChooseExperts(const std::vector<GateUse>& use, ExpertScore score,
                                        double fraction);

// A table for people, and what finetune.experts_file reads.
std::string GateUseTable(const std::vector<GateUse>& use, const std::vector<LayerExperts>& chosen);
std::string GateUseJson(const std::vector<GateUse>& use, const std::vector<LayerExperts>& chosen);
// DATA_LOSS or NOT_FOUND with the path.
absl::StatusOr<std::vector<LayerExperts>> ReadExpertsFile(const std::string& path);

}  // namespace sluice::trainer
