#include "checkpoints/huggingface/name_map.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace sluice::checkpoints {

std::string DiskName(absl::string_view model_type, absl::string_view name) {
  if (absl::string_view prefix = name; absl::ConsumeSuffix(&prefix, "e_score_correction_bias")) {
    return absl::StrCat(prefix, "gate.e_score_correction_bias");
  }
  if (model_type != "mixtral") return std::string(name);
  return absl::StrReplaceAll(name, {{".mlp.", ".block_sparse_moe."},
                                    {".gate_proj.", ".w1."},
                                    {".down_proj.", ".w2."},
                                    {".up_proj.", ".w3."}});
}

}  // namespace sluice::checkpoints
