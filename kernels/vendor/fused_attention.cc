#include "kernels/vendor/fused_attention.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::kernels::vendor {
namespace {

absl::Status RefusedAttention(absl::string_view what, int64_t found, absl::string_view wanted) {
  return absl::UnimplementedError(absl::StrCat("cuDNN cannot do this attention: ", what, ": found ",
                                               found, ", wanted ", wanted));
}

}  // namespace

absl::Status CheckFusedAttention(const FusedAttention& a) {
  for (const auto& [name, extent] :
       {std::pair("sequences", a.sequences), {"tokens", a.tokens}, {"heads", a.heads}}) {
    if (extent < 1) return RefusedAttention(name, extent, "at least 1");
  }
  for (const auto& [name, width] :
       {std::pair("width of q and k", a.qk_width), {"width of v", a.v_width}}) {
    if (width < 8 || width > 256 || width % 8 != 0) {
      return RefusedAttention(name, width, "a multiple of 8 up to 256");
    }
  }
  for (const auto& [name, row] : {std::pair("row of q", a.q_row),
                                  {"row of k", a.k_row},
                                  {"row of v", a.v_row},
                                  {"row of o", a.o_row}}) {
    if (row % 8 != 0) return RefusedAttention(name, row, "a multiple of 8 (16 bytes)");
  }
  return absl::OkStatus();
}

}  // namespace sluice::kernels::vendor
