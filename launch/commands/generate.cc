// `sluice generate`: text from a checkpoint.
#include "trainer/loop/generate.h"

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/json_text.h"
#include "launch/rank_context.h"

namespace sluice::launch {
namespace {

class Generate : public Command {
 public:
  std::string name() const override { return "generate"; }
  std::string summary() const override { return "writes text from a checkpoint"; }
  std::string description() const override {
    return "Prints the prompt and what follows it. The same seed gives the same text.\n\n"
           "  sluice generate --checkpoint runs/first --prompt \"It was\" --tokens 100";
  }
  bool runs_on_ranks() const override { return true; }
  FlagSet flags() override {
    return {CheckpointFlag(options_.checkpoint),
            {.name = "--prompt",
             .value = "TEXT",
             .help = "what to go on from",
             .target = &options_.prompt},
            {.name = "--chat",
             .value = "TEMPLATE",
             .help = "the prompt is a user's message in these turns; prints the answer alone",
             .target = &options_.chat_template},
            {.name = "--tokens",
             .value = "N",
             .help = "at most this many new tokens",
             .target = &options_.max_tokens},
            {.name = "--temperature",
             .value = "T",
             .help = "0: always the most likely token",
             .target = &options_.sampling.temperature},
            {.name = "--top-p",
             .value = "P",
             .help = "choose among the likeliest tokens that together have probability P",
             .target = &options_.sampling.top_p},
            {.name = "--seed", .value = "N", .help = "of the choices", .target = &seed_},
            {.name = "--tokenizer",
             .value = "FILE",
             .help = "default: the run's",
             .target = &options_.tokenizer},
            {.name = "--json", .help = "{\"text\": ...} instead of plain text", .target = &json_}};
  }

  absl::Status Run(const CommandContext& context) override {
    const trainer::SamplingOptions& sampling = options_.sampling;
    if (options_.max_tokens < 0) {
      return absl::InvalidArgumentError("generate: --tokens cannot be negative");
    }
    if (!(sampling.temperature >= 0)) {
      return absl::InvalidArgumentError("generate: --temperature cannot be negative");
    }
    if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("generate: --top-p ", sampling.top_p, ": wanted above 0 and at most 1"));
    }
    options_.sampling.seed = static_cast<uint64_t>(seed_);
    ASSIGN_OR_RETURN(const auto device, CreateDevice(trainer::ComputeConfig(), context));
    ASSIGN_OR_RETURN(const std::string text,
                     trainer::Generate(options_, MakeRankContext(context, *device, stderr)));
    if (context.is_first_rank()) {
      std::puts((json_ ? JsonText({{"text", text}}) : text).c_str());
    }
    return absl::OkStatus();
  }

 private:
  trainer::GenerateOptions options_;
  int64_t seed_ = 1;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateGenerateCommand() { return std::make_unique<Generate>(); }

}  // namespace sluice::launch
