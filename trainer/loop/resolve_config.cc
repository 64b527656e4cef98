#include "trainer/loop/resolve_config.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "parallel/mesh/process_mesh.h"
#include "parallel/schedule/schedule.h"
#include "trainer/loop/parameter_rules.h"
#include "trainer/loop/stage_map.h"
#include "trainer/model/finetune.h"
#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

#define SLUICE_DEFAULT(message, field, value) \
  if (!(message).has_##field()) (message).set_##field(value)

absl::Status Wanted(absl::string_view field, absl::string_view found, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": found ", found, ", wanted ", wanted));
}

absl::Status AtLeast(absl::string_view field, int64_t found, int64_t least) {
  return found >= least ? absl::OkStatus()
                        : Wanted(field, absl::StrCat(found), absl::StrCat("at least ", least));
}

// Finds `value` among `known` without regard to case and writes it as it stands there.
absl::Status Canonical(absl::string_view field, std::initializer_list<absl::string_view> known,
                       std::string* value) {
  std::string list;
  for (absl::string_view name : known) {
    if (absl::AsciiStrToLower(*value) == absl::AsciiStrToLower(name)) {
      *value = std::string(name);
      return absl::OkStatus();
    }
    absl::StrAppend(&list, list.empty() ? "" : ", ", name);
  }
  return Wanted(field, absl::StrCat("\"", *value, "\""), absl::StrCat("one of ", list));
}

void ResolveTrain(TrainConfig& t) {
  SLUICE_DEFAULT(t, steps, 1000);
  SLUICE_DEFAULT(t, seed, 1);
  SLUICE_DEFAULT(t, global_batch, 16);
  SLUICE_DEFAULT(t, microbatch, 1);
  SLUICE_DEFAULT(t, sequence_length, 256);
  LearningRateConfig& lr = *t.mutable_lr();
  SLUICE_DEFAULT(lr, schedule, "cosine");
  SLUICE_DEFAULT(lr, peak, 1e-3);
  SLUICE_DEFAULT(lr, final_ratio, 0.1);
  SLUICE_DEFAULT(lr, constant_steps, 0);
  SLUICE_DEFAULT(lr, tail_steps, 0);
  SLUICE_DEFAULT(lr, tail_ratio, lr.final_ratio());
  SLUICE_DEFAULT(t, adam_beta1, 0.9);
  SLUICE_DEFAULT(t, adam_beta2, 0.95);
  SLUICE_DEFAULT(t, adam_eps, 1e-8);
  SLUICE_DEFAULT(t, weight_decay, 0.1);
  SLUICE_DEFAULT(t, moment_dtype, "FP32");
  SLUICE_DEFAULT(t, ema_decay, 0.0);
  SLUICE_DEFAULT(t, clip_norm, 1.0);
  SLUICE_DEFAULT(t, mtp_loss_weight, 0.3);
  SLUICE_DEFAULT(t, bias_update_speed, 0.001);
  SLUICE_DEFAULT(t, batch_ramp_start, 0);
  SLUICE_DEFAULT(t, batch_ramp_steps, 0);
  SLUICE_DEFAULT(t, max_skipped_in_a_row, 5);
  SLUICE_DEFAULT(t, epochs, 0.0);
  if (t.epochs() == 0) ResolveLrSteps(t);
}

void ResolveRest(RunConfig& c, int world_size) {
  data::DataConfig& d = *c.mutable_data();
  SLUICE_DEFAULT(d, train_vocab_size, c.model().vocab_size());
  SLUICE_DEFAULT(d, bundled_sample, false);
  const bool converses = !d.sft().empty() || !d.sft_validation().empty();
  SLUICE_DEFAULT(d, document_mask, converses);
  SLUICE_DEFAULT(d, chat_template, "raw");
  SLUICE_DEFAULT(d, learn_prompts, false);
  SLUICE_DEFAULT(d, control_tokens_in_messages, false);
  SLUICE_DEFAULT(d, fim_rate, 0.0);
  SLUICE_DEFAULT(d, shuffle, true);
  MeshConfig& m = *c.mutable_mesh();
  SLUICE_DEFAULT(m, pipe, 1);
  SLUICE_DEFAULT(m, expert, 1);
  SLUICE_DEFAULT(m, data, std::max(1, world_size / std::max(1, m.pipe())));
  // The load-balancing loss over the global batch needs all forwards before the first backward.
  SLUICE_DEFAULT(c, schedule, c.model().router_aux_loss_coef() != 0 ? "gpipe" : "1f1b");
  SLUICE_DEFAULT(c, schedule_chunks, parallel::DefaultChunks(c.schedule()));
  SLUICE_DEFAULT(c, stage_layers, "");
  ComputeConfig& p = *c.mutable_compute();
  SLUICE_DEFAULT(p, device, "cpu");
  SLUICE_DEFAULT(p, precision, "BF16");
  SLUICE_DEFAULT(p, threads, 0);
  SLUICE_DEFAULT(p, recompute, "none");
  SLUICE_DEFAULT(p, threaded_streams, false);
  SLUICE_DEFAULT(p, matmul_kernels, "auto");
  SLUICE_DEFAULT(p, attention_kernels, "auto");
  SLUICE_DEFAULT(p, keep_fp8_weights, false);
  SLUICE_DEFAULT(p, collectives, p.device() == "cuda" && world_size > 1 ? "nccl" : "host");
  Fp8Config& f = *c.mutable_fp8();
  SLUICE_DEFAULT(f, scales, "F32");
  SLUICE_DEFAULT(f, gradient_tiles, "1x128");
  SLUICE_DEFAULT(f, swiglu_cache, false);
  SLUICE_DEFAULT(f, o_proj_cache, "BF16");
  SLUICE_DEFAULT(f, report_every, 0);
  SLUICE_DEFAULT(f, demote_above, 0.25);
  EvalConfig& e = *c.mutable_eval();
  SLUICE_DEFAULT(e, every, 0);
  SLUICE_DEFAULT(e, batches, 0);
  SLUICE_DEFAULT(e, sample_every, 0);
  SLUICE_DEFAULT(e, sample_prompt, "The ");
  SLUICE_DEFAULT(e, sample_tokens, 64);
  CheckpointConfig& k = *c.mutable_checkpoint();
  SLUICE_DEFAULT(k, every, 0);
  SLUICE_DEFAULT(k, keep, 3);
  SLUICE_DEFAULT(*c.mutable_run(), dir, "runs/default");
  SLUICE_DEFAULT(*c.mutable_run(), check_memory, true);
  SLUICE_DEFAULT(d, cache_dir, c.run().dir() + "/data");
}

// Numbers that make no sense, wherever they are used.
absl::Status ValidateNumbers(const RunConfig& c) {
  constexpr double kAny = std::numeric_limits<double>::max();
  const ModelConfig& m = c.model();
  const TrainConfig& t = c.train();
  const struct {
    const char* field;
    double found, least, most;
  } numbers[] = {
      {"model.rms_norm_eps", m.rms_norm_eps(), 0, kAny},
      {"model.initializer_range", m.initializer_range(), 0, kAny},
      {"model.rope_theta", m.rope_theta(), 1, kAny},
      {"model.routed_scaling_factor", m.routed_scaling_factor(), 0, kAny},
      {"train.adam_eps", t.adam_eps(), 0, kAny},
      {"train.weight_decay", t.weight_decay(), 0, kAny},
      {"train.mtp_loss_weight", t.mtp_loss_weight(), 0, kAny},
      {"train.bias_update_speed", t.bias_update_speed(), 0, kAny},
      {"train.lr.final_ratio", t.lr().final_ratio(), 0, kAny},
      {"train.lr.decay_steps", static_cast<double>(t.lr().decay_steps()), 0, kAny},
      {"train.global_batch", static_cast<double>(t.global_batch()), 1, 1 << 24},
      {"train.microbatch * train.sequence_length",
       static_cast<double>(t.microbatch()) * static_cast<double>(t.sequence_length()), 1, 1 << 24},
      {"data.fim_rate", c.data().fim_rate(), 0, 1},
      {"eval.every", static_cast<double>(c.eval().every()), 0, kAny},
      {"eval.batches", static_cast<double>(c.eval().batches()), 0, kAny},
      {"eval.sample_every", static_cast<double>(c.eval().sample_every()), 0, kAny},
      {"eval.sample_tokens", static_cast<double>(c.eval().sample_tokens()), 0, kAny},
      {"compute.threads", static_cast<double>(c.compute().threads()), 0, 1024},
  };
  for (const auto& number : numbers) {
    if (number.found >= number.least && number.found <= number.most) continue;
    return Wanted(number.field, absl::StrCat(number.found),
                  number.most == kAny ? absl::StrCat("at least ", number.least)
                                      : absl::StrCat(number.least, " to ", number.most));
  }
  return absl::OkStatus();
}

absl::Status ValidateTrain(const TrainConfig& t) {
  RETURN_IF_ERROR(AtLeast("train.steps", t.steps(), 1));
  RETURN_IF_ERROR(AtLeast("train.global_batch", t.global_batch(), 1));
  RETURN_IF_ERROR(AtLeast("train.microbatch", t.microbatch(), 1));
  RETURN_IF_ERROR(AtLeast("train.sequence_length", t.sequence_length(), 2));
  RETURN_IF_ERROR(AtLeast("train.lr.warmup_steps", t.lr().warmup_steps(), 0));
  RETURN_IF_ERROR(AtLeast("train.max_skipped_in_a_row", t.max_skipped_in_a_row(), 1));
  if (!(t.epochs() >= 0)) {
    return Wanted("train.epochs", absl::StrCat(t.epochs()), "0 (train.steps counts) or more");
  }
  if (!(t.lr().peak() >= 0))
    return Wanted("train.lr.peak", absl::StrCat(t.lr().peak()), "0 or more");
  if (!(t.clip_norm() >= 0))
    return Wanted("train.clip_norm", absl::StrCat(t.clip_norm()), "0 (none) or more");
  if (!(t.adam_beta1() >= 0 && t.adam_beta1() < 1)) {
    return Wanted("train.adam_beta1", absl::StrCat(t.adam_beta1()), "0 <= beta < 1");
  }
  if (!(t.adam_beta2() >= 0 && t.adam_beta2() < 1)) {
    return Wanted("train.adam_beta2", absl::StrCat(t.adam_beta2()), "0 <= beta < 1");
  }
  if (!(t.ema_decay() >= 0 && t.ema_decay() < 1)) {
    return Wanted("train.ema_decay", absl::StrCat(t.ema_decay()), "0 (none) <= decay < 1");
  }
  return absl::OkStatus();
}

// The batch must be cut evenly: ranks, then microbatches.
absl::Status ValidateBatch(const RunConfig& c) {
  const int64_t unit = int64_t{c.mesh().data()} * c.train().microbatch();
  if (c.train().global_batch() % unit != 0) {
    return Wanted("train.global_batch", absl::StrCat(c.train().global_batch()),
                  absl::StrCat("a multiple of mesh.data * train.microbatch = ", c.mesh().data(),
                               " * ", c.train().microbatch()));
  }
  if (c.train().batch_ramp_start() < 0 || c.train().batch_ramp_start() > c.train().global_batch()) {
    return Wanted("train.batch_ramp_start", absl::StrCat(c.train().batch_ramp_start()),
                  "0 to train.global_batch");
  }
  if (c.train().batch_ramp_start() > 0 && c.train().batch_ramp_steps() < 1) {
    return Wanted("train.batch_ramp_steps", absl::StrCat(c.train().batch_ramp_steps()),
                  "at least 1 with train.batch_ramp_start");
  }
  if (c.train().sequence_length() > c.model().max_position_embeddings()) {
    return Wanted("train.sequence_length", absl::StrCat(c.train().sequence_length()),
                  absl::StrCat("at most model.max_position_embeddings = ",
                               c.model().max_position_embeddings()));
  }
  if (c.model().num_nextn_predict_layers() >= c.train().sequence_length()) {
    return Wanted("model.num_nextn_predict_layers",
                  absl::StrCat(c.model().num_nextn_predict_layers()),
                  "less than train.sequence_length");
  }
  return absl::OkStatus();
}

absl::Status ValidateNames(RunConfig& c) {
  RETURN_IF_ERROR(Canonical("schedule",
                            {"gpipe", "1f1b", "interleaved", "zb_h1", "dualpipe", "dualpipe_v"},
                            c.mutable_schedule()));
  RETURN_IF_ERROR(Canonical("compute.precision", {"FP32", "BF16", "FP8"},
                            c.mutable_compute()->mutable_precision()));
  RETURN_IF_ERROR(
      Canonical("compute.device", {"cpu", "cuda"}, c.mutable_compute()->mutable_device()));
  RETURN_IF_ERROR(Canonical("compute.collectives", {"nccl", "host"},
                            c.mutable_compute()->mutable_collectives()));
  RETURN_IF_ERROR(Canonical("compute.matmul_kernels", {"auto", "mma_sync", "cublaslt"},
                            c.mutable_compute()->mutable_matmul_kernels()));
  RETURN_IF_ERROR(Canonical("compute.attention_kernels", {"auto", "cudnn"},
                            c.mutable_compute()->mutable_attention_kernels()));
  RETURN_IF_ERROR(Canonical("fp8.scales", {"F32", "UE8M0"}, c.mutable_fp8()->mutable_scales()));
  RETURN_IF_ERROR(Canonical("fp8.gradient_tiles", {"1x128", "128x128"},
                            c.mutable_fp8()->mutable_gradient_tiles()));
  RETURN_IF_ERROR(
      Canonical("fp8.o_proj_cache", {"BF16", "E5M6"}, c.mutable_fp8()->mutable_o_proj_cache()));
  RETURN_IF_ERROR(
      Canonical("train.moment_dtype", {"FP32", "BF16"}, c.mutable_train()->mutable_moment_dtype()));
  RETURN_IF_ERROR(Canonical("train.lr.schedule", {"constant", "cosine", "wsd", "deepseek_v3"},
                            c.mutable_train()->mutable_lr()->mutable_schedule()));
  RETURN_IF_ERROR(ParseRecompute(c.compute().recompute()).status());
  RETURN_IF_ERROR(AtLeast("schedule_chunks", c.schedule_chunks(), 1));
  RETURN_IF_ERROR(AtLeast("checkpoint.keep", c.checkpoint().keep(), 1));
  return AtLeast("checkpoint.every", c.checkpoint().every(), 0);
}

// What runs on a GPU is training and evaluation; the rest reads memory of the host.
absl::Status ValidateDevice(const RunConfig& c) {
  if (c.compute().device() != "cuda") {
    if (c.compute().collectives() == "host") return absl::OkStatus();
    return Wanted("compute.collectives", "nccl", "host with compute.device cpu");
  }
  if (c.eval().sample_every() != 0) {
    return Wanted("eval.sample_every", absl::StrCat(c.eval().sample_every()),
                  "0 with compute.device cuda; sluice generate samples from a checkpoint");
  }
  if (c.compute().keep_fp8_weights()) {
    return Wanted("compute.keep_fp8_weights", "true", "false with compute.device cuda");
  }
  if (c.train().ema_decay() > 0) {
    return Wanted("train.ema_decay", absl::StrCat(c.train().ema_decay()),
                  "0 with compute.device cuda, which does not bring its masters to the host");
  }
  return absl::OkStatus();
}

// What NVIDIA's libraries can do of any model; CheckLibraries (product_table.h) knows its shapes.
absl::Status ValidateLibraries(const RunConfig& c) {
  const ComputeConfig& p = c.compute();
  const bool has_cublaslt = p.matmul_kernels() == "cublaslt";
  const bool has_cudnn = p.attention_kernels() == "cudnn";
  if (p.device() != "cuda") {
    const char* wanted = "auto with compute.device cpu";
    if (has_cublaslt) return Wanted("compute.matmul_kernels", "cublaslt", wanted);
    if (has_cudnn) return Wanted("compute.attention_kernels", "cudnn", wanted);
  }
  if (p.precision() == "FP32") {
    const char* wanted = "auto with compute.precision FP32";
    if (has_cublaslt) return Wanted("compute.matmul_kernels", "cublaslt", wanted);
    if (has_cudnn) return Wanted("compute.attention_kernels", "cudnn", wanted);
  }
  if (has_cudnn && c.data().document_mask()) {
    return Wanted("compute.attention_kernels", "cudnn",
                  "auto with data.document_mask, whose documents are not equally long");
  }
  return absl::OkStatus();
}

// Every width that an FP8 product contracts or cuts into tiles.
absl::Status ValidateFp8(const RunConfig& c) {
  if (c.compute().precision() != "FP8") return absl::OkStatus();
  if (c.finetune().mode() != "full" || !c.finetune().freeze().empty()) {
    return Wanted("compute.precision", "FP8",
                  "BF16 or FP32 with finetune.mode lora or experts, or finetune.freeze "
                  "(compute.keep_fp8_weights keeps a base in FP8)");
  }
  if (c.compute().keep_fp8_weights()) {
    return Wanted("compute.keep_fp8_weights", "true", "false with compute.precision FP8");
  }
  const ModelConfig& m = c.model();
  const bool mla = m.kv_lora_rank() > 0;
  const std::pair<const char*, int64_t> widths[] = {
      {"hidden_size", m.hidden_size()},
      {"intermediate_size", m.intermediate_size()},
      {"moe_intermediate_size", m.n_routed_experts() > 0 ? m.moe_intermediate_size() : 0},
      {"q_lora_rank", mla ? m.q_lora_rank() : 0},
      {"kv_lora_rank", m.kv_lora_rank()},
      {"qk_nope_head_dim", mla ? m.qk_nope_head_dim() : 0},
      {"qk_rope_head_dim", mla ? m.qk_rope_head_dim() : 0},
      {"v_head_dim", mla ? m.v_head_dim() : 0},
      {"head_dim", mla ? 0 : m.head_dim()}};
  for (const auto& [name, width] : widths) {
    if (width % 16 != 0) {
      return Wanted(absl::StrCat("model.", name), absl::StrCat(width),
                    "a multiple of 16 with compute.precision FP8");
    }
  }
  return absl::OkStatus();
}

// What the schedule refuses is said before any data is prepared.
absl::Status ValidateSchedule(const RunConfig& c) {
  parallel::PipelineShape shape;
  shape.num_ranks = c.mesh().pipe();
  shape.num_microbatches = c.train().global_batch() / (c.mesh().data() * c.train().microbatch());
  shape.chunks = c.schedule_chunks();
  return parallel::MakeSchedule(c.schedule(), shape).status();
}

}  // namespace

void ResolveLrSteps(TrainConfig& t) {
  LearningRateConfig& lr = *t.mutable_lr();
  SLUICE_DEFAULT(lr, warmup_steps, std::min<int64_t>(t.steps() / 10, 2000));
  SLUICE_DEFAULT(lr, decay_steps, t.steps() / 5);
}

absl::StatusOr<Recompute> ParseRecompute(absl::string_view text) {
  Recompute recompute;
  for (absl::string_view name : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::string word(absl::StripAsciiWhitespace(name));
    if (word == "norm") {
      recompute.norm = true;
    } else if (word == "mla_up") {
      recompute.mla_up = true;
    } else if (word == "swiglu") {
      recompute.swiglu = true;
    } else if (word != "none") {
      return Wanted("compute.recompute", absl::StrCat("\"", word, "\""),
                    "none, norm, mla_up or swiglu");
    }
  }
  return recompute;
}

std::optional<Fp8Options> MakeFp8Options(const RunConfig& c) {
  if (c.compute().precision() != "FP8") return std::nullopt;
  Fp8Options options;
  if (c.fp8().scales() == "UE8M0") {
    options.activations.format = kernels::ScaleFormat::kPowerOfTwo;
  }
  options.gradients = options.activations;
  options.gradients.square_blocks = c.fp8().gradient_tiles() == "128x128";
  options.swiglu_cache = c.fp8().swiglu_cache();
  options.e5m6_attention = c.fp8().o_proj_cache() == "E5M6";
  return options;
}

LrSchedule MakeLrSchedule(const TrainConfig& t) {
  LrSchedule s;
  const std::string& name = t.lr().schedule();
  s.shape = name == "constant"      ? LrShape::kConstant
            : name == "wsd"         ? LrShape::kWsd
            : name == "deepseek_v3" ? LrShape::kDeepSeekV3
                                    : LrShape::kCosine;
  s.peak = t.lr().peak();
  s.steps = t.steps();
  s.warmup_steps = t.lr().warmup_steps();
  s.final_ratio = t.lr().final_ratio();
  s.decay_steps = t.lr().decay_steps();
  s.constant_steps = t.lr().constant_steps();
  s.tail_steps = t.lr().tail_steps();
  s.tail_ratio = t.lr().tail_ratio();
  return s;
}

BatchRamp MakeBatchRamp(const RunConfig& c) {
  const int64_t microbatches = parallel::MicrobatchUnit(c.schedule(), c.mesh().pipe());
  return {c.train().batch_ramp_start(), c.train().global_batch(), c.train().batch_ramp_steps(),
          microbatches * c.mesh().data() * c.train().microbatch()};
}

absl::StatusOr<RunConfig> Resolve(const RunConfig& config, int world_size) {
  RunConfig c = config;
  ResolveModel(*c.mutable_model());
  ResolveTrain(*c.mutable_train());
  ResolveRest(c, world_size);
  ResolveFinetune(*c.mutable_finetune());
  RETURN_IF_ERROR(ValidateModel(c.model()));
  RETURN_IF_ERROR(ValidateTrain(c.train()));
  RETURN_IF_ERROR(ValidateNumbers(c));
  RETURN_IF_ERROR(ParameterRules::Create(c.train()).status());
  RETURN_IF_ERROR(ValidateFinetune(c.finetune(), c.model()));
  RETURN_IF_ERROR(ValidateNames(c));
  RETURN_IF_ERROR(ValidateDevice(c));
  RETURN_IF_ERROR(ValidateLibraries(c));
  RETURN_IF_ERROR(ValidateFp8(c));
  const parallel::MeshShape shape{c.mesh().pipe(), c.mesh().data(), c.mesh().expert()};
  RETURN_IF_ERROR(parallel::ProcessMesh::Create(shape, world_size).status());
  if (c.model().n_routed_experts() > 0 && c.model().n_routed_experts() % shape.expert != 0) {
    return Wanted(
        "mesh.expert", absl::StrCat(shape.expert),
        absl::StrCat("a divisor of model.n_routed_experts = ", c.model().n_routed_experts()));
  }
  if (c.model().router_aux_loss_coef() != 0 && c.schedule() != "gpipe") {
    return Wanted("schedule", c.schedule(),
                  "gpipe with model.router_aux_loss_coef, whose gradient needs the expert load of "
                  "the whole batch first");
  }
  RETURN_IF_ERROR(ValidateBatch(c));
  RETURN_IF_ERROR(StageMap(c).status());
  RETURN_IF_ERROR(ValidateSchedule(c));
  return c;
}

}  // namespace sluice::trainer
