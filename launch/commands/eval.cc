// `sluice eval`: loss, perplexity and bits per byte of a checkpoint.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/rank_context.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/multiple_choice.h"
#include "trainer/loop/run_data.h"

namespace sluice::launch {
namespace {

class Eval : public Command {
 public:
  std::string name() const override { return "eval"; }
  std::string summary() const override {
    return "loss, perplexity and bits per byte of a checkpoint";
  }
  std::string description() const override {
    return "Reads the run's validation text, or --text, in order.\n\n"
           "  sluice eval --checkpoint runs/first\n"
           "  sluice eval --checkpoint runs/first --text mine.txt --json\n"
           "  sluice eval --checkpoint runs/first --multiple-choice questions.jsonl";
  }
  bool runs_on_ranks() const override { return true; }
  FlagSet flags() override {
    return {CheckpointFlag(checkpoint_),
            {.name = "--text",
             .value = "PATH",
             .help = "other text than the run's validation text; may be repeated",
             .target = &texts_},
            {.name = "--sft",
             .value = "PATH",
             .help = "conversations instead (JSONL), by the run's data.chat_template; loss of the "
                     "answers",
             .target = &conversations_},
            {.name = "--batches",
             .value = "N",
             .help = "read only N batches of one sequence a rank",
             .target = &batches_},
            {.name = "--multiple-choice",
             .value = "FILE",
             .help = "instead: how often the right answer is the likeliest; JSONL of "
                     "{\"question\", \"choices\", \"answer\"}",
             .target = &choices_.path},
            {.name = "--chat",
             .value = "TEMPLATE",
             .help = "with --multiple-choice: ask as a user of this chat template",
             .target = &choices_.chat_template},
            {.name = "--ema",
             .help = "the moving average of the weights (train.ema_decay)",
             .target = &average_},
            {.name = "--json", .help = "one JSON object instead of a line", .target = &json_}};
  }

  absl::Status Run(const CommandContext& context) override {
    if (batches_ < 0) return absl::InvalidArgumentError("eval: --batches cannot be negative");
    if (!choices_.path.empty() &&
        (!texts_.empty() || !conversations_.empty() || batches_ > 0 || average_))
      return absl::InvalidArgumentError(
          "eval: --multiple-choice goes without --text, --sft, --batches and --ema");
    if (choices_.path.empty() && !choices_.chat_template.empty())
      return absl::InvalidArgumentError("eval: --chat goes with --multiple-choice only");
    ASSIGN_OR_RETURN(const auto device, CreateDevice(trainer::ComputeConfig(), context));
    const trainer::RankContext rank = MakeRankContext(context, *device, stderr);
    if (!choices_.path.empty()) return Ask(context, rank);
    using checkpoints::WeightSet;
    ASSIGN_OR_RETURN(const trainer::LoadedModel loaded,
                     trainer::LoadModel(checkpoint_, rank, trainer::LoadFor::kForward,
                                        average_ ? WeightSet::kAverage : WeightSet::kMasters));
    const trainer::RunConfig config = DataOf(loaded);
    if (config.data().validation().empty() && config.data().sft_validation().empty()) {
      return absl::InvalidArgumentError(
          "eval: the run has no data.validation, wanted text by --text");
    }
    ASSIGN_OR_RETURN(const auto data, trainer::RunData::Open(config, rank));
    ASSIGN_OR_RETURN(const trainer::EvaluationResult result,
                     trainer::EvaluateText(*loaded.model, *data, batches_));
    if (!context.is_first_rank()) return absl::OkStatus();
    const std::string text = json_ ? trainer::EvaluationJson(result, loaded.step)
                                   : trainer::EvaluationLine(result, loaded.step);
    std::puts(text.c_str());
    return absl::OkStatus();
  }

 private:
  absl::Status Ask(const CommandContext& context, const trainer::RankContext& rank) {
    choices_.checkpoint = checkpoint_;
    ASSIGN_OR_RETURN(const trainer::MultipleChoiceResult result,
                     trainer::EvaluateMultipleChoice(choices_, rank));
    if (!context.is_first_rank()) return absl::OkStatus();
    const std::string text =
        json_ ? trainer::MultipleChoiceJson(result) : trainer::MultipleChoiceLine(result);
    std::puts(text.c_str());
    return absl::OkStatus();
  }

  // The run's configuration with the text to read.
  trainer::RunConfig DataOf(const trainer::LoadedModel& loaded) const {
    trainer::RunConfig config = trainer::ConfigToRead(loaded);
    if (texts_.empty() && conversations_.empty()) return config;
    data::DataConfig& data = *config.mutable_data();
    data.clear_validation();
    data.clear_sft_validation();
    for (const std::string& text : texts_) data.add_validation()->set_path(text);
    for (const std::string& path : conversations_) data.add_sft_validation()->set_path(path);
    if (!conversations_.empty()) data.set_document_mask(true);
    return config;
  }

  std::string checkpoint_;
  std::vector<std::string> texts_, conversations_;
  trainer::MultipleChoiceOptions choices_;
  int64_t batches_ = 0;
  bool average_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateEvalCommand() { return std::make_unique<Eval>(); }

}  // namespace sluice::launch
