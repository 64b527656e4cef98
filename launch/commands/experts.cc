// `sluice experts`: which experts a task uses, and which to train for it.
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/rank_context.h"
#include "trainer/loop/gate_statistics.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/run_data.h"

namespace sluice::launch {
namespace {

class Experts : public Command {
 public:
  std::string name() const override { return "experts"; }
  std::string summary() const override {
    return "which experts a task's data uses, and which to train for it";
  }
  std::string description() const override {
    return "Runs the data through a checkpoint and counts what each gate does (expert-specialised\n"
           "fine-tuning, arXiv 2407.01906). In each layer the experts used most are chosen until\n"
           "their share reaches --fraction; a fine-tune with finetune.mode=experts and\n"
           "finetune.experts_file trains these only.\n\n"
           "  sluice experts --checkpoint runs/first --sft task.jsonl --output experts.json\n"
           "  sluice experts --checkpoint runs/first --text task.txt --score token --fraction 0.3";
  }
  bool runs_on_ranks() const override { return true; }
  FlagSet flags() override {
    return {CheckpointFlag(checkpoint_),
            {.name = "--sft",
             .value = "PATH",
             .help = "conversations (JSONL), by the run's data.chat_template; may be repeated",
             .target = &conversations_},
            {.name = "--text",
             .value = "PATH",
             .help = "plain text instead; may be repeated",
             .target = &texts_},
            {.name = "--template",
             .value = "NAME",
             .help = "chat template; default: the run's data.chat_template",
             .target = &template_},
            {.name = "--score",
             .value = "gate|token",
             .help = "by the average gate score (default) or by how many tokens choose it",
             .target = &score_},
            {.name = "--fraction",
             .value = "P",
             .help = "share that the chosen experts of a layer reach together; default 0.2",
             .target = &fraction_},
            {.name = "--batches",
             .value = "N",
             .help = "read only N batches of one sequence a rank",
             .target = &batches_},
            {.name = "--output", .value = "FILE", .help = "the report as JSON", .target = &output_},
            {.name = "--json", .help = "JSON instead of a table", .target = &json_}};
  }

  absl::Status Run(const CommandContext& context) override {
    RETURN_IF_ERROR(CheckFlags());
    ASSIGN_OR_RETURN(const auto device, CreateDevice(trainer::ComputeConfig(), context));
    const trainer::RankContext rank = MakeRankContext(context, *device, stderr);
    ASSIGN_OR_RETURN(const trainer::LoadedModel loaded, trainer::LoadModel(checkpoint_, rank));
    ASSIGN_OR_RETURN(const auto data, trainer::RunData::Open(DataOf(loaded), rank));
    ASSIGN_OR_RETURN(const std::vector<trainer::GateUse> use,
                     trainer::MeasureGateUse(*loaded.model, *data, batches_));
    if (!context.is_first_rank()) return absl::OkStatus();
    const auto score =
        score_ == "token" ? trainer::ExpertScore::kToken : trainer::ExpertScore::kGate;
    const auto chosen = trainer::ChooseExperts(use, score, fraction_);
    const std::string json = trainer::GateUseJson(use, chosen) + "\n";
    std::fputs(json_ ? json.c_str() : trainer::GateUseTable(use, chosen).c_str(), stdout);
    if (output_.empty()) return absl::OkStatus();
    std::ofstream file(output_, std::ios::trunc);
    file << json;
    file.close();
    if (file) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("--output ", output_, ": cannot be written"));
  }

 private:
  absl::Status CheckFlags() const {
    if (score_ != "gate" && score_ != "token") {
      return absl::InvalidArgumentError(
          absl::StrCat("experts: --score ", score_, ": wanted gate or token"));
    }
    if (!(fraction_ > 0 && fraction_ <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("experts: --fraction ", fraction_, ": wanted more than 0, at most 1"));
    }
    if (batches_ < 0) return absl::InvalidArgumentError("experts: --batches cannot be negative");
    if (conversations_.empty() == texts_.empty()) {
      return absl::InvalidArgumentError("experts: wanted the task's data, by --sft or by --text");
    }
    return absl::OkStatus();
  }

  // The run's configuration with the task's data as validation data.
  trainer::RunConfig DataOf(const trainer::LoadedModel& loaded) const {
    trainer::RunConfig config = trainer::ConfigToRead(loaded);
    data::DataConfig& data = *config.mutable_data();
    data.clear_validation();
    data.clear_sft_validation();
    for (const std::string& path : texts_) data.add_validation()->set_path(path);
    for (const std::string& path : conversations_) data.add_sft_validation()->set_path(path);
    if (!template_.empty()) data.set_chat_template(template_);
    if (!conversations_.empty()) data.set_document_mask(true);
    return config;
  }

  std::string checkpoint_, template_, output_, score_ = "gate";
  std::vector<std::string> conversations_, texts_;
  double fraction_ = 0.2;
  int64_t batches_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateExpertsCommand() { return std::make_unique<Experts>(); }

}  // namespace sluice::launch
