#include "trainer/loop/resume.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/message_differencer.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Collects "path: old -> new" of every differing leaf.
class Differences : public google::protobuf::util::MessageDifferencer::Reporter {
 public:
  using Path = std::vector<google::protobuf::util::MessageDifferencer::SpecificField>;
  void ReportAdded(const Message& /*a*/, const Message& /*b*/, const Path& path) override {
    Add(path, "unset", "set");
  }
  void ReportDeleted(const Message& /*a*/, const Message& /*b*/, const Path& path) override {
    Add(path, "set", "unset");
  }
  void ReportModified(const Message& a, const Message& b, const Path& path) override {
    Add(path, ValueOf(a, path), ValueOf(b, path));
  }
  struct Difference {
    std::string field, stored, now;
  };
  const std::vector<Difference>& found() const { return found_; }

 private:
  static std::string ValueOf(const Message& root, const Path& path) {
    const Message* message = &root;
    for (size_t i = 0; i + 1 < path.size(); ++i) {
      const FieldDescriptor* field = path[i].field;
      message = field->is_repeated()
                    ? &message->GetReflection()->GetRepeatedMessage(*message, field, path[i].index)
                    : &message->GetReflection()->GetMessage(*message, field);
    }
    std::string text;
    google::protobuf::TextFormat::PrintFieldValueToString(
        *message, path.back().field, path.back().field->is_repeated() ? path.back().index : -1,
        &text);
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

// Fields whose change would make it another run.
bool MustNotChange(const std::string& field) {
  for (const char* prefix : {"model.", "data.", "train.seed", "train.global_batch",
                             "train.sequence_length", "train.batch_ramp", "train.moment_dtype"}) {
    if (field.rfind(prefix, 0) == 0) return field != "data.cache_dir";
  }
  return false;
}

absl::StatusOr<RunConfig> StoredConfig(checkpoints::FileSystem& files,
                                       const std::string& generation) {
  ASSIGN_OR_RETURN(auto reader, checkpoints::CheckpointReader::Open(files, generation));
  RunConfig stored;
  if (!google::protobuf::TextFormat::ParseFromString(reader->metadata().config_textproto(),
                                                     &stored)) {
    return absl::DataLossError(absl::StrCat(generation, ": its configuration is not readable"));
  }
  return stored;
}

absl::StatusOr<RunState> Resume(RankModel& model, const RankContext& rank,
                                const std::string& generation, const std::string& tokenizer_hash,
                                checkpoints::FileSystem& files) {
  ASSIGN_OR_RETURN(const RunConfig stored, StoredConfig(files, generation));
  ASSIGN_OR_RETURN(const std::string changes, CompareForResume(stored, model.config()));
  ASSIGN_OR_RETURN(RunState state, LoadState(model, generation, LoadOptions(), files));
  if (state.tokenizer_hash != tokenizer_hash) {
    return absl::InvalidArgumentError(absl::StrCat("data.tokenizer: found one with hash ",
                                                   tokenizer_hash, ", wanted the checkpoint's ",
                                                   state.tokenizer_hash));
  }
  if (rank.print) {
    rank.print(absl::StrCat("resuming ", generation, " after step ", state.step));
    if (!changes.empty()) rank.print(absl::StrCat("changed since then:\n", changes));
  }
  return state;
}

}  // namespace

std::string CheckpointDir(const RunConfig& config) { return config.run().dir() + "/checkpoints"; }

absl::StatusOr<std::string> CompareForResume(const RunConfig& stored, const RunConfig& now) {
  Differences differences;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesTo(&differences);
  differencer.Compare(stored, now);
  std::string changes;
  for (const auto& difference : differences.found()) {
    if (MustNotChange(difference.field)) {
      return absl::InvalidArgumentError(
          absl::StrCat(difference.field, ": found ", difference.now, ", wanted ", difference.stored,
                       " as in the checkpoint of this run (a new run.dir starts a new run)"));
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
                                    const std::string& tokenizer_hash,
                                    checkpoints::FileSystem& files) {
  absl::StatusOr<std::string> own = FindCheckpoint(model.config().run().dir(), rank, files);
  if (own.ok()) return Resume(model, rank, *own, tokenizer_hash, files);
  if (!absl::IsNotFound(own.status())) return own.status();
  RunState state;
  state.tokenizer_hash = tokenizer_hash;
  const std::string& from = model.config().run().init_from();
  if (from.empty()) {
    RETURN_IF_ERROR(model.InitializeWeights());
    return state;
  }
  ASSIGN_OR_RETURN(const std::string generation, FindCheckpoint(from, rank, files));
  LoadOptions options;
  options.weights_only = true;
  RETURN_IF_ERROR(LoadState(model, generation, options, files).status());
  if (rank.print) rank.print(absl::StrCat("weights from ", generation));
  return state;
}

}  // namespace sluice::trainer
