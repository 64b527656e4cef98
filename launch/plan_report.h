// What `sluice plan` prints.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/json_text.h"
#include "launch/plan_input.h"
#include "parallel/plan/plan.h"

namespace sluice::launch {

std::string PlansText(const parallel::PlanRequest& request, const parallel::Plans& plans);
Json PlansJson(const parallel::PlanRequest& request, const parallel::Plans& plans);

// "$5.538M" or "$120".
std::string Money(double dollars);

// Expert placement of each recorded layer, its steps added up: the fullest rank over the mean with
// experts in order, packed by load, and packed with one more copy a rank.
struct PlacementGains {
  struct Layer {
    int layer = 0;
    double in_order = 0, packed = 0, copied = 0;
  };
  int ranks = 1, nodes = 1;
  std::vector<Layer> layers;
  Layer mean;  // over the layers
};
absl::StatusOr<PlacementGains> GainsOfPlacement(const parallel::PlanRequest& request,
                                                const parallel::Layout& layout);
std::string PlacementText(const PlacementGains& gains);
Json PlacementJson(const PlacementGains& gains);

// The step of one layout, line by line.
absl::StatusOr<std::string> ExplainText(const parallel::PlanRequest& request,
                                        const parallel::Layout& layout);

std::string PublishedText(const std::vector<PublishedCheck>& checks, double expert_cv);
Json PublishedJson(const std::vector<PublishedCheck>& checks);

}  // namespace sluice::launch
