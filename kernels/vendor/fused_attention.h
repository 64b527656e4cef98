// What cuDNN is asked for, and what it refuses: no library is needed to know.
//   B sequences of S tokens each, A heads, D and V wide
#pragma once

#include <compare>
#include <cstdint>

#include "absl/status/status.h"

namespace sluice::kernels::vendor {

struct FusedAttention {
  int64_t sequences = 1, tokens = 0, heads = 0, qk_width = 0, v_width = 0;
  // Elements from token to token; 0: its heads and no more.
  int64_t q_row = 0, k_row = 0, v_row = 0, o_row = 0;
  friend auto operator<=>(const FusedAttention&, const FusedAttention&) = default;
};

// Why cuDNN cannot do it, in one sentence; OK if it can, as far as the shape says. Documents of
// unequal lengths are not its: the graph knows one length.
absl::Status CheckFusedAttention(const FusedAttention& attention);

}  // namespace sluice::kernels::vendor
