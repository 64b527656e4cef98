// `sluice inspect`: what checkpoints hold, whether they are whole, whether they are equal.
#include "checkpoints/inspect.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoints/digest.h"
#include "checkpoints/file_system.h"
#include "checkpoints/manifest.h"
#include "checkpoints/reader.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/json_text.h"
#include "launch/suggest.h"

namespace sluice::launch {
namespace {

using checkpoints::CheckpointReader;
using checkpoints::Generation;

void Log(absl::string_view message) {
  std::fprintf(stderr, "sluice: %s\n", std::string(message).c_str());
}

class Inspect : public Command {
 public:
  std::string name() const override { return "inspect"; }
  std::string summary() const override { return "lists, verifies, digests, compares checkpoints"; }
  std::string description() const override {
    return "CHECKPOINT is a generation's folder, or a run's folder: then its newest good "
           "generation.\n\n"
           "  sluice inspect list CHECKPOINT     generations of a run, tensors of a checkpoint\n"
           "  sluice inspect verify CHECKPOINT   reads every byte and checks it\n"
           "  sluice inspect digest CHECKPOINT   a line a tensor and one total: equal for equal "
           "states,\n"
           "                                     however the run was cut over ranks\n"
           "  sluice inspect diff A B            tensors that differ; exit code 1 if any";
  }
  FlagSet flags() override {
    return {
        {.name = "ACTION",
         .help = "list, verify, digest or diff",
         .target = &action_,
         .required = true},
        {.name = "CHECKPOINT", .help = "one, or two for diff", .target = &paths_, .required = true},
        {.name = "--json", .help = "one JSON object instead of lines", .target = &json_}};
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    files_ = checkpoints::CreatePosixFileSystem();
    const std::vector<std::string> actions = {"list", "verify", "digest", "diff"};
    const size_t wanted = action_ == "diff" ? 2 : 1;
    if (std::find(actions.begin(), actions.end(), action_) == actions.end()) {
      return absl::InvalidArgumentError(absl::StrCat("inspect: there is no action '", action_, "'",
                                                     DidYouMean(action_, actions),
                                                     "; wanted list, verify, digest or diff"));
    }
    if (paths_.size() != wanted) {
      return absl::InvalidArgumentError(absl::StrCat("inspect ", action_, ": found ", paths_.size(),
                                                     " checkpoints, wanted ", wanted));
    }
    if (action_ == "list") return List();
    if (action_ == "verify") return Verify();
    return action_ == "digest" ? Digest() : Diff();
  }

 private:
  absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& path) {
    ASSIGN_OR_RETURN(const std::string generation,
                     checkpoints::ResolveCheckpoint(*files_, path, Log));
    return CheckpointReader::Open(*files_, generation);
  }

  // The generations beside each other in a run's folder; none for the folder of a single one.
  std::vector<Generation> GenerationsOf(const std::string& path) {
    for (const std::string& dir : {checkpoints::JoinPath(path, "checkpoints"), path}) {
      auto generations = checkpoints::ListGenerations(*files_, dir);
      if (generations.ok() && !generations->empty()) return *std::move(generations);
    }
    return {};
  }

  absl::Status List() {
    const std::vector<Generation> generations = GenerationsOf(paths_[0]);
    const auto reader = Open(paths_[0]);
    if (json_) {
      Json object;
      for (const Generation& each : generations) {
        object["generations"].push_back({{"step", each.step},
                                         {"path", each.path},
                                         {"committed", each.is_committed},
                                         {"good", each.is_committed && each.status.ok()},
                                         {"created_unix_ms", each.created_unix_ms}});
      }
      if (reader.ok()) object["checkpoint"] = Contents(**reader);
      std::puts(JsonText(object).c_str());
      return reader.status();
    }
    if (!generations.empty()) {
      std::printf("%s\n", checkpoints::GenerationsText(generations).c_str());
    }
    RETURN_IF_ERROR(reader.status());
    std::fputs(checkpoints::ContentsText(**reader).c_str(), stdout);
    return absl::OkStatus();
  }

  static Json Contents(const CheckpointReader& reader) {
    Json object = {{"path", reader.generation_dir()},
                   {"step", reader.step()},
                   {"mesh", reader.metadata().mesh()},
                   {"tokenizer_hash", reader.metadata().tokenizer_hash()}};
    for (const checkpoints::TensorRecord& tensor : reader.tensors()) {
      const auto shape = checkpoints::ShapeOf(tensor);
      object["tensors"].push_back({{"name", tensor.name()},
                                   {"dtype", tensor.dtype()},
                                   {"shape", std::vector<int64_t>(shape.begin(), shape.end())}});
    }
    return object;
  }

  absl::Status Verify() {
    ASSIGN_OR_RETURN(const std::string generation,
                     checkpoints::ResolveCheckpoint(*files_, paths_[0], Log));
    RETURN_IF_ERROR(checkpoints::Verify(*files_, generation));
    const std::string text = json_ ? JsonText({{"path", generation}, {"good", true}})
                                   : absl::StrCat("good: ", generation);
    std::puts(text.c_str());
    return absl::OkStatus();
  }

  absl::Status Digest() {
    ASSIGN_OR_RETURN(const auto reader, Open(paths_[0]));
    ASSIGN_OR_RETURN(const checkpoints::StateDigest digest,
                     checkpoints::DigestOfCheckpoint(*reader));
    if (!json_) {
      std::fputs(digest.ToString().c_str(), stdout);
      return absl::OkStatus();
    }
    Json object = {{"step", digest.step}, {"total", digest.total.ToString()}};
    for (const checkpoints::TensorDigest& tensor : digest.tensors) {
      object["tensors"][tensor.tensor] = tensor.digest.ToString();
    }
    std::puts(JsonText(object).c_str());
    return absl::OkStatus();
  }

  absl::Status Diff() {
    ASSIGN_OR_RETURN(const auto a, Open(paths_[0]));
    ASSIGN_OR_RETURN(const auto b, Open(paths_[1]));
    ASSIGN_OR_RETURN(const checkpoints::CheckpointDifference difference, checkpoints::Diff(*a, *b));
    if (json_) {
      Json object = {
          {"equal", difference.is_equal()},     {"step_a", difference.step_a},
          {"step_b", difference.step_b},        {"equal_tensors", difference.num_equal_tensors},
          {"different_tensors", Json::array()}, {"metadata", difference.metadata}};
      for (const checkpoints::TensorDifference& tensor : difference.tensors) {
        object["different_tensors"].push_back({{"name", tensor.tensor},
                                               {"a", tensor.a},
                                               {"b", tensor.b},
                                               {"different", tensor.num_different},
                                               {"max_difference", tensor.max_difference}});
      }
      std::puts(JsonText(object).c_str());
    } else {
      std::fputs(difference.ToString().c_str(), stdout);
    }
    if (difference.is_equal()) return absl::OkStatus();
    return absl::FailedPreconditionError("inspect diff: the two states differ");
  }

  std::unique_ptr<checkpoints::FileSystem> files_;
  std::string action_;
  std::vector<std::string> paths_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateInspectCommand() { return std::make_unique<Inspect>(); }

}  // namespace sluice::launch
