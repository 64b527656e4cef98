#include "trainer/loop/resume.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/message_differencer.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/resolve_config.h"
#include "trainer/model/model_config.h"

namespace sluice::trainer {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Collects "path: old -> new" of every differing leaf.
class Differences : public google::protobuf::util::MessageDifferencer::Reporter {
 public:
  using Path = std::vector<google::protobuf::util::MessageDifferencer::SpecificField>;
  void ReportAdded(const Message& /*a*/, const Message& b, const Path& path) override {
    Add(path, "unset", IsMessage(path) ? "set" : ValueOf(b, path));
  }
  void ReportDeleted(const Message& a, const Message& /*b*/, const Path& path) override {
    Add(path, IsMessage(path) ? "set" : ValueOf(a, path), "unset");
  }
  void ReportModified(const Message& a, const Message& b, const Path& path) override {
    // Of a message that holds other fields, those are reported as well.
    if (IsMessage(path)) return;
    Add(path, ValueOf(a, path), ValueOf(b, path));
  }
  struct Difference {
    std::string field, stored, now;
  };
  const std::vector<Difference>& found() const { return found_; }

 private:
  static bool IsMessage(const Path& path) {
    return path.back().field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  }
  // `parent`: the message that the last field of `path` belongs to.
  static std::string ValueOf(const Message& parent, const Path& path) {
    const FieldDescriptor* field = path.back().field;
    std::string text;
    google::protobuf::TextFormat::PrintFieldValueToString(
        parent, field, field->is_repeated() ? path.back().index : -1, &text);
    return text;
  }
  void Add(const Path& path, std::string stored, std::string now) {
    std::string field;
    for (const auto& step : path)
      absl::StrAppend(&field, field.empty() ? "" : ".", step.field->name());
    found_.push_back({std::move(field), std::move(stored), std::move(now)});
  }
  std::vector<Difference> found_;
};

// Fields whose change would make it another run. Of the training text and the vocabulary the
// content counts, not the path: SameInputs compares it.
bool MustNotChange(const std::string& field) {
  for (const char* prefix :
       {"model.", "data.document_mask", "data.fim_rate", "data.shuffle", "train.seed",
        "train.global_batch", "train.sequence_length", "train.batch_ramp", "train.moment_dtype",
        "train.ema_decay", "finetune.mode", "finetune.lora", "finetune.layer_experts",
        "finetune.freeze", "finetune.train_router"}) {
    if (field.rfind(prefix, 0) == 0) return true;
  }
  return false;
}

absl::Status Refuse(absl::string_view field, absl::string_view found, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": found ", found, ", wanted ", wanted,
                   " as in the checkpoint of this run (a new run.dir starts a new run)"));
}

absl::Status SameInputs(const checkpoints::RunMetadata& stored, const RunState& beginning) {
  if (stored.tokenizer_hash() != beginning.tokenizer_hash) {
    return Refuse("data.tokenizer",
                  absl::StrCat("a vocabulary with hash ", beginning.tokenizer_hash),
                  stored.tokenizer_hash());
  }
  if (DataIdentityOf(stored) != beginning.data_identity) {
    return Refuse("data.train",
                  absl::StrCat("data (tokens and weights) with hash ", beginning.data_identity),
                  DataIdentityOf(stored));
  }
  return absl::OkStatus();
}

// What changed, as CompareForResume.
absl::StatusOr<std::string> CompareWithCheckpoint(const RunConfig& now, const RunState& beginning,
                                                  const std::string& generation,
                                                  checkpoints::FileSystem& files) {
  ASSIGN_OR_RETURN(const auto reader, checkpoints::CheckpointReader::Open(files, generation));
  RunConfig stored;
  if (!google::protobuf::TextFormat::ParseFromString(reader->metadata().config_textproto(),
                                                     &stored)) {
    return absl::DataLossError(absl::StrCat(generation, ": its configuration is not readable"));
  }
  ASSIGN_OR_RETURN(std::string changes, CompareForResume(stored, now));
  RETURN_IF_ERROR(SameInputs(reader->metadata(), beginning));
  return changes;
}

absl::StatusOr<RunState> Resume(RankModel& model, const RankContext& rank,
                                const std::string& generation, const RunState& beginning,
                                checkpoints::FileSystem& files) {
  const absl::StatusOr<std::string> changes =
      CompareWithCheckpoint(model.config(), beginning, generation, files);
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, changes.status()));
  ASSIGN_OR_RETURN(RunState state, LoadState(model, generation, LoadOptions(), files));
  if (rank.print) {
    rank.print(absl::StrCat("resuming ", generation, " after step ", state.step));
    if (!changes->empty()) rank.print(absl::StrCat("changed since then:\n", *changes));
  }
  return state;
}

// Adapters go on from adapters of the same shape, or begin anew; to stack them is to merge first.
absl::Status CheckAdapters(const RunConfig& now, const std::string& generation,
                           checkpoints::FileSystem& files) {
  ASSIGN_OR_RETURN(const auto reader, checkpoints::CheckpointReader::Open(files, generation));
  RunConfig stored;
  if (!google::protobuf::TextFormat::ParseFromString(reader->metadata().config_textproto(),
                                                     &stored)) {
    return absl::DataLossError(absl::StrCat(generation, ": its configuration is not readable"));
  }
  if (stored.finetune().mode() != "lora" || now.finetune().mode() != "lora") {
    return absl::OkStatus();
  }
  const LoraConfig &a = stored.finetune().lora(), &b = now.finetune().lora();
  if (a.rank() == b.rank() && a.alpha() == b.alpha() && a.targets() == b.targets()) {
    return absl::OkStatus();
  }
  const auto text = [](const LoraConfig& lora) {
    return absl::StrCat("rank ", lora.rank(), ", alpha ", lora.alpha(), ", targets ",
                        lora.targets());
  };
  return absl::InvalidArgumentError(
      absl::StrCat("finetune.lora: found ", text(b), ", wanted ", text(a), " as the adapters of ",
                   generation, " have (export it merged to put new ones on top)"));
}

// A new run with another run's weights.
absl::StatusOr<RunState> StartFromWeights(RankModel& model, const RankContext& rank,
                                          const RunState& beginning,
                                          checkpoints::FileSystem& files) {
  ASSIGN_OR_RETURN(const std::string generation,
                   FindCheckpoint(model.config().run().init_from(), rank, files));
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, CheckAdapters(model.config(), generation, files)));
  LoadOptions options;
  options.weights_only = options.merge_adapters = true;
  ASSIGN_OR_RETURN(const RunState loaded, LoadState(model, generation, options, files));
  if (rank.print) {
    rank.print(absl::StrCat("weights from ", generation));
    if (loaded.tokenizer_hash != beginning.tokenizer_hash) {
      rank.print("these weights were trained with another vocabulary than data.tokenizer");
    }
  }
  return beginning;
}

}  // namespace

std::string CheckpointDir(const RunConfig& config) { return config.run().dir() + "/checkpoints"; }

absl::StatusOr<std::string> CompareForResume(const RunConfig& stored, const RunConfig& now) {
  Differences differences;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesTo(&differences);
  // A field that the program which stored did not have yet counts with its default.
  RunConfig known = stored;
  ResolveModel(*known.mutable_model());
  if (!known.train().has_ema_decay()) known.mutable_train()->set_ema_decay(0);
  differencer.Compare(known, now);
  // The ramp's sizes are multiples of what the mesh, the microbatch and the schedule need: with
  // another multiple, samples would be skipped or read twice.
  const bool ramps = now.train().batch_ramp_start() > 0 &&
                     MakeBatchRamp(stored).multiple != MakeBatchRamp(now).multiple;
  std::string changes;
  for (const auto& difference : differences.found()) {
    const bool is_unit = difference.field == "mesh.data" || difference.field == "mesh.pipe" ||
                         difference.field == "train.microbatch" || difference.field == "schedule";
    if (MustNotChange(difference.field) || (ramps && is_unit)) {
      return Refuse(difference.field, difference.now, difference.stored);
    }
    absl::StrAppend(&changes, "  ", difference.field, ": ", difference.stored, " -> ",
                    difference.now, "\n");
  }
  return changes;
}

absl::StatusOr<std::string> FindCheckpoint(const std::string& path, const RankContext& rank,
                                           checkpoints::FileSystem& files) {
  absl::StatusOr<std::string> found = std::string();
  if (rank.world->rank() == 0) {
    found = [&]() -> absl::StatusOr<std::string> {
      const auto log = [&](absl::string_view message) {
        if (rank.print) rank.print(std::string(message));
      };
      const absl::Status generation = checkpoints::CheckpointReader::Open(files, path).status();
      if (generation.ok() || !absl::IsNotFound(generation)) return path;
      for (const std::string& dir : {path + "/checkpoints", path}) {
        const auto newest = checkpoints::FindNewestGood(files, dir, log);
        if (newest.ok()) return newest->path;
        if (!absl::IsNotFound(newest.status())) return newest.status();
      }
      return absl::NotFoundError(
          absl::StrCat(path, ": found no checkpoint, wanted a run folder or a generation"));
    }();
  }
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, found.status()));
  return rank.world->BroadcastBytes(*found, 0);
}

absl::StatusOr<RunState> StartState(RankModel& model, const RankContext& rank,
                                    const RunState& beginning, checkpoints::FileSystem& files) {
  absl::StatusOr<std::string> own = FindCheckpoint(model.config().run().dir(), rank, files);
  if (own.ok()) return Resume(model, rank, *own, beginning, files);
  if (!absl::IsNotFound(own.status())) return own.status();
  if (!model.config().run().init_from().empty()) {
    return StartFromWeights(model, rank, beginning, files);
  }
  const auto is_quantized = [](const auto& parameter) { return parameter->is_quantized(); };
  const auto& parameters = model.store().parameters();
  if (std::any_of(parameters.begin(), parameters.end(), is_quantized)) {
    return absl::InvalidArgumentError(
        "run.init_from: found nothing, wanted a model in FP8 with compute.keep_fp8_weights");
  }
  RETURN_IF_ERROR(model.InitializeWeights());
  return beginning;
}

}  // namespace sluice::trainer
