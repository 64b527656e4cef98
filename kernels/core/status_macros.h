// RETURN_IF_ERROR and ASSIGN_OR_RETURN: hand an absl::Status upwards.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SLUICE_CONCAT_INNER(a, b) a##b
#define SLUICE_CONCAT(a, b) SLUICE_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                                           \
  do {                                                                                        \
    if (absl::Status sluice_status = (expression); !sluice_status.ok()) return sluice_status; \
  } while (false)

#define SLUICE_ASSIGN_OR_RETURN(temporary, lhs, expression) \
  auto temporary = (expression);                            \
  if (!temporary.ok()) return temporary.status();           \
  lhs = *std::move(temporary)

// ASSIGN_OR_RETURN(auto x, F()): returns F's status if it failed, else moves its value into x.
#define ASSIGN_OR_RETURN(lhs, expression) \
  SLUICE_ASSIGN_OR_RETURN(SLUICE_CONCAT(sluice_statusor_, __LINE__), lhs, expression)
