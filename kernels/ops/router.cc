#include "kernels/ops/router.h"

#include "kernels/cpu/router.h"
#include "kernels/ops/check_arguments.h"
#include "kernels/ops/dispatch.h"

namespace sluice::kernels {

namespace {

void CheckConfig(const RouterConfig& config) {
  CHECK_GE(config.num_experts, 1);
  CHECK(config.experts_per_token >= 1 && config.experts_per_token <= config.num_experts)
      << config.experts_per_token << " of " << config.num_experts << " experts";
  if (config.group_score == GroupScore::kNone) return;
  CHECK(config.n_group >= 1 && config.num_experts % config.n_group == 0)
      << config.num_experts << " experts in " << config.n_group << " groups";
  CHECK(config.topk_group >= 1 && config.topk_group <= config.n_group)
      << config.topk_group << " of " << config.n_group << " groups";
  CHECK_LE(config.experts_per_token, config.num_experts / config.n_group * config.topk_group)
      << "the kept groups hold too few experts";
}

}  // namespace

void Route(Stream& stream, const RouteArgs& args) {
  CheckConfig(args.config);
  const int64_t tokens = args.logits.extent(0);
  const int64_t experts = args.config.num_experts, top = args.config.experts_per_token;
  CheckTensor(stream, "Route.logits", args.logits, {tokens, experts}, DType::kF32);
  if (!args.bias.is_null()) CheckTensor(stream, "Route.bias", args.bias, {experts}, DType::kF32);
  CheckTensor(stream, "Route.scores", args.scores, {tokens, experts}, DType::kF32);
  CheckTensor(stream, "Route.expert_of", args.expert_of, {tokens, top}, DType::kI32);
  CheckTensor(stream, "Route.weights", args.weights, {tokens, top}, DType::kF32);
  CheckTensor(stream, "Route.counts", args.counts, {experts}, DType::kI64);
  RUN_OP(stream, Route, args);
}

void BalanceLoss(Stream& stream, const BalanceLossArgs& args) {
  CheckConfig(args.config);
  const int64_t tokens = args.logits.extent(0), experts = args.config.num_experts;
  CHECK_GE(args.starts.extent(0), 1);
  const int64_t sequences = args.starts.extent(0) - 1;
  CheckTensor(stream, "BalanceLoss.logits", args.logits, {tokens, experts}, DType::kF32);
  CheckTensor(stream, "BalanceLoss.scores", args.scores, {tokens, experts}, DType::kF32);
  CheckTensor(stream, "BalanceLoss.starts", args.starts, {sequences + 1}, DType::kI32);
  CheckTensor(stream, "BalanceLoss.load", args.load, {sequences, experts}, DType::kF32);
  CheckTensor(stream, "BalanceLoss.balance", args.balance, {sequences}, DType::kF64);
  CheckTensor(stream, "BalanceLoss.z", args.z, {sequences}, DType::kF64);
  const auto bytes = static_cast<int64_t>(BalanceLossScratchBytes(stream, tokens, args.config));
  if (bytes > 0) {
    CHECK_GE(args.scratch.num_elements(), bytes);
    CheckTensor(stream, "BalanceLoss.scratch", args.scratch, args.scratch.shape(), DType::kU8);
  }
  RUN_OP(stream, BalanceLoss, args);
}

// Of a token: a double for each expert and one more, and a bit for each expert in words of 32.
size_t BalanceLossScratchBytes(Stream& stream, int64_t tokens, const RouterConfig& config) {
  if (!IsOnCuda(stream)) return 0;
  const auto experts = static_cast<size_t>(config.num_experts);
  return static_cast<size_t>(tokens) * (8 * (experts + 1) + 4 * ((experts + 31) / 32));
}

void RouterBackward(Stream& stream, const RouterBackwardArgs& args) {
  CheckConfig(args.config);
  const int64_t tokens = args.logits.extent(0);
  const int64_t experts = args.config.num_experts, top = args.config.experts_per_token;
  CHECK_GE(args.starts.extent(0), 1);
  const int64_t sequences = args.starts.extent(0) - 1;
  CheckTensor(stream, "RouterBackward.logits", args.logits, {tokens, experts}, DType::kF32);
  CheckTensor(stream, "RouterBackward.scores", args.scores, {tokens, experts}, DType::kF32);
  CheckTensor(stream, "RouterBackward.expert_of", args.expert_of, {tokens, top}, DType::kI32);
  CheckTensor(stream, "RouterBackward.dweights", args.dweights, {tokens, top}, DType::kF32);
  CheckTensor(stream, "RouterBackward.starts", args.starts, {sequences + 1}, DType::kI32);
  CheckTensor(stream, "RouterBackward.load", args.load, {sequences, experts}, DType::kF32);
  CheckTensor(stream, "RouterBackward.dlogits", args.dlogits, {tokens, experts}, DType::kF32);
  if (!args.global_load_scale.is_null()) {
    CheckTensor(stream, "RouterBackward.global_load_scale", args.global_load_scale, {experts},
                DType::kF32);
  }
  RUN_OP(stream, RouterBackward, args);
}

}  // namespace sluice::kernels
