#include "trainer/loop/product_table.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "kernels/product_path.h"
#include "kernels/vendor/fused_attention.h"
#include "trainer/model/lm_head.h"

namespace sluice::trainer {
namespace {

using kernels::LinearOnGpu;
using kernels::LinearProduct;

constexpr LinearProduct kLinearProducts[] = {LinearProduct::kForward, LinearProduct::kInputGradient,
                                             LinearProduct::kWeightGradient};

// "self_attn.q_proj + kv_a_proj_with_mqa": the named tensors of a weight, without the numbers of
// layers and experts, and what they have in common once.
std::string NameOfLinear(const Linear& linear) {
  std::string text;
  std::set<std::string> seen;
  for (const NamedPiece& piece : linear.weight().pieces) {
    std::vector<std::string> words = absl::StrSplit(piece.name, '.');
    if (words.back() == "weight") words.pop_back();
    if (words.size() > 3 && words[1] == "layers") words.erase(words.begin(), words.begin() + 3);
    if (words.size() > 2 && words[words.size() - 3] == "experts") words.erase(words.end() - 2);
    const std::string name = absl::StrJoin(words, ".");
    if (!seen.insert(name).second) continue;
    absl::StrAppend(&text, text.empty() ? name : absl::StrCat(" + ", words.back()));
  }
  return text;
}

// Whose results are logits.
bool IsHead(const RunConfig& config, const Linear& linear) {
  return !linear.may_be_fp8() && linear.weight().shape[0] == config.model().vocab_size();
}
bool IsGate(const Linear& linear) {
  return absl::EndsWith(linear.weight().pieces[0].name, ".gate.weight");
}

LinearOnGpu OnGpu(const RunConfig& config, const Linear& linear) {
  const Parameter& weight = linear.weight();
  const int rank = weight.shape.rank();
  const bool is_head = IsHead(config, linear);
  LinearOnGpu on_gpu;
  on_gpu.rows = int64_t{config.train().microbatch()} * config.train().sequence_length();
  on_gpu.in = weight.shape[rank - 1];
  on_gpu.out = weight.shape[rank - 2];
  if (is_head) on_gpu.rows = std::min(on_gpu.rows, LmHead::kChunkRows);
  on_gpu.is_f32 = is_head || IsGate(linear);
  on_gpu.is_grouped = rank == 3;
  if (on_gpu.is_grouped) {
    on_gpu.experts = weight.shape[0];
    on_gpu.rows *= config.model().num_experts_per_tok();
  }
  const std::string& precision = config.compute().precision();
  if (precision == "FP32") {
    on_gpu.dtype = DType::kF32;
  } else if (precision == "FP8" && linear.may_be_fp8()) {
    on_gpu.dtype = DType::kE4M3;
    on_gpu.equal_parts = EqualParts(RowTiles(weight));
  }
  return on_gpu;
}

kernels::MatmulKernels KernelsOf(const RunConfig& config) {
  const std::string& name = config.compute().matmul_kernels();
  if (name == "cublaslt") return kernels::MatmulKernels::kCublasLt;
  return name == "mma_sync" ? kernels::MatmulKernels::kMmaSync : kernels::MatmulKernels::kAuto;
}

// Of one layer, one product.
absl::Status CheckDense(const RunConfig& config, const Linear& linear, LinearProduct product) {
  const LinearOnGpu on_gpu = OnGpu(config, linear);
  const absl::Status status = kernels::CheckByCublasLt(on_gpu, product);
  if (status.ok()) return status;
  static constexpr const char* kNames[] = {"y = x W^T", "dx = dy W", "dW = dy^T x"};
  return absl::InvalidArgumentError(
      absl::StrCat("compute.matmul_kernels: found cublaslt, wanted auto: ", NameOfLinear(linear),
                   ", ", on_gpu.rows, " rows, ", on_gpu.in, " in, ", on_gpu.out, " out, in ",
                   config.compute().precision(), ", ", kNames[static_cast<int>(product)], ": ",
                   status.message()));
}

absl::Status CheckAttention(const RunConfig& config) {
  const ModelConfig& m = config.model();
  const bool is_mla = m.kv_lora_rank() > 0;
  const auto wanted_auto = [](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("compute.attention_kernels: found cudnn, wanted auto: ", why));
  };
  if (!is_mla && m.num_key_value_heads() != m.num_attention_heads()) {
    return wanted_auto(absl::StrCat("our graph for it has a key head for each query head; found ",
                                    m.num_key_value_heads(), " of ", m.num_attention_heads()));
  }
  const absl::Status status = kernels::vendor::CheckFusedAttention(
      {.sequences = config.train().microbatch(),
       .tokens = config.train().sequence_length(),
       .heads = m.num_attention_heads(),
       .qk_width = is_mla ? m.qk_nope_head_dim() + m.qk_rope_head_dim() : m.head_dim(),
       .v_width = is_mla ? m.v_head_dim() : m.head_dim()});
  return status.ok() ? status : wanted_auto(status.message());
}

}  // namespace

std::string ProductTable(const RunConfig& config, const std::vector<const Linear*>& linears) {
  std::string text = absl::StrFormat(
      "products on a GPU, %d rows a microbatch:\n  %-44s %-4s %7s %7s  %-14s %-14s %s\n",
      config.train().microbatch() * config.train().sequence_length(), "layer", "type", "in", "out",
      "y = x W^T", "dx = dy W", "dW = dy^T x");
  std::set<std::string> seen;
  for (const Linear* linear : linears) {
    const LinearOnGpu on_gpu = OnGpu(config, *linear);
    std::string name = NameOfLinear(*linear);
    if (on_gpu.is_grouped) absl::StrAppend(&name, " x ", on_gpu.experts);
    std::vector<std::string> paths;
    for (const LinearProduct product : kLinearProducts) {
      paths.push_back(kernels::ProductPath(on_gpu, product, KernelsOf(config)));
    }
    const std::string line = absl::StrFormat("  %-44s %-4s %7d %7d  %-14s %-14s %s\n", name,
                                             kernels::NameOf(on_gpu.dtype), on_gpu.in, on_gpu.out,
                                             paths[0], paths[1], paths[2]);
    if (seen.insert(line).second) text += line;
  }
  return text;
}

absl::Status CheckLibraries(const RunConfig& config, const std::vector<const Linear*>& linears) {
  if (config.compute().matmul_kernels() == "cublaslt") {
    for (const Linear* linear : linears) {
      for (const LinearProduct product : kLinearProducts) {
        RETURN_IF_ERROR(CheckDense(config, *linear, product));
      }
    }
  }
  if (config.compute().attention_kernels() == "cudnn") RETURN_IF_ERROR(CheckAttention(config));
  return absl::OkStatus();
}

}  // namespace sluice::trainer
