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

// Expert placement of each recorded layer: fullest rank over mean as it is, packed, and with a copy
// a rank.
absl::StatusOr<std::string> PlacementText(const parallel::PlanRequest& request,
                                          const parallel::Layout& layout);

// The step of one layout, line by line.
absl::StatusOr<std::string> ExplainText(const parallel::PlanRequest& request,
                                        const parallel::Layout& layout);

std::string PublishedText(const std::vector<PublishedCheck>& checks, double expert_cv);
Json PublishedJson(const std::vector<PublishedCheck>& checks);

}  // namespace sluice::launch
