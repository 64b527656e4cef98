// `sluice score`: log-probabilities of given texts or token ids, for scripts and comparisons.
#include "trainer/loop/score.h"

#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "data/json_lines.h"
#include "data/utf8.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/rank_context.h"
#include "trainer/loop/run_state.h"

namespace sluice::launch {
namespace {

// {"logprobs": [...]}; nine digits give each float back exactly.
std::string LogprobsJson(const std::vector<float>& logprobs) {
  std::string text = "{\"logprobs\": [";
  for (size_t i = 0; i < logprobs.size(); ++i) {
    absl::StrAppend(&text, i > 0 ? ", " : "");
    if (std::isfinite(logprobs[i])) {
      absl::StrAppendFormat(&text, "%.9g", logprobs[i]);
    } else {
      absl::StrAppend(&text, "null");  // JSON has no infinities
    }
  }
  return text + "]}";
}

std::string LogprobsLine(const std::vector<float>& logprobs) {
  double sum = 0;
  for (const float logprob : logprobs) sum += logprob;
  return absl::StrFormat("%d tokens scored, log-probability %.6f, perplexity %.4f", logprobs.size(),
                         sum, std::exp(-sum / logprobs.size()));
}

class Score : public Command {
 public:
  std::string name() const override { return "score"; }
  std::string summary() const override { return "log-probability of each token of given lines"; }
  std::string description() const override {
    return "Reads lines of {\"ids\": [...]} or {\"text\": ...} from stdin; of n tokens the last n "
           "- 1\n"
           "have a log-probability. All lines are read and checked first: if one is bad, nothing "
           "is "
           "written.\n\n"
           "  echo '{\"text\": \"It was\"}' | sluice score --checkpoint runs/first --json\n"
           "                                     writes {\"logprobs\": [...]} for each line";
  }
  bool runs_on_ranks() const override { return true; }
  FlagSet flags() override {
    return {CheckpointFlag(options_.checkpoint),
            {.name = "--tokenizer",
             .value = "FILE",
             .help = "for text; default: the run's",
             .target = &options_.tokenizer},
            {.name = "--logits",
             .value = "FILE",
             .help = "also write all logits, as safetensors",
             .target = &options_.logits_path},
            {.name = "--routes",
             .value = "FILE",
             .help = "also write the experts of each token, as safetensors",
             .target = &options_.routes_path},
            {.name = "--gradients",
             .value = "FILE",
             .help = "also write the gradients of the mean loss, as safetensors",
             .target = &options_.gradients_path},
            {.name = "--json", .help = "one JSON object a line", .target = &json_}};
  }

  absl::Status Run(const CommandContext& context) override {
    std::vector<trainer::ScoreInput> inputs;  // mpirun gives stdin to the first rank only
    const absl::Status read = context.is_first_rank() ? ReadInputs(inputs) : absl::OkStatus();
    RETURN_IF_ERROR(trainer::AgreeOnStatus(*context.world, read));
    ASSIGN_OR_RETURN(const auto device, CreateDevice(trainer::ComputeConfig(), context));
    ASSIGN_OR_RETURN(const auto scores,
                     trainer::Score(options_, inputs, MakeRankContext(context, *device, stderr)));
    for (const std::vector<float>& logprobs : scores) {
      std::puts((json_ ? LogprobsJson(logprobs) : LogprobsLine(logprobs)).c_str());
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status ReadInputs(std::vector<trainer::ScoreInput>& inputs) {
    std::string line;
    for (int64_t number = 1; std::getline(std::cin, line); ++number) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      absl::StatusOr<data::JsonLine> json =
          data::IsValidUtf8(line) ? data::ParseJsonLine(line)
                                  : absl::InvalidArgumentError("the line is not UTF-8");
      if (json.ok() && json->ids.has_value() == json->text.has_value()) {
        json = absl::InvalidArgumentError("wanted {\"ids\": [...]} or {\"text\": ...}");
      }
      if (!json.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("score: line ", number, " of stdin: ", json.status().message()));
      }
      trainer::ScoreInput input = {.is_text = json->text.has_value(), .line = number};
      if (input.is_text) {
        input.text = *std::move(json->text);
      } else {
        input.ids = *std::move(json->ids);
      }
      inputs.push_back(std::move(input));
    }
    if (!inputs.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "score: nothing on stdin, wanted lines of {\"ids\": [...]} or {\"text\": ...}");
  }

  trainer::ScoreOptions options_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateScoreCommand() { return std::make_unique<Score>(); }

}  // namespace sluice::launch
