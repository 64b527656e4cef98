// `sluice adapter`: LoRA adapters of a run as PEFT reads them.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "checkpoints/file_system.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/rank_context.h"
#include "parallel/comm/communicator.h"
#include "trainer/loop/adapter_export.h"
#include "trainer/loop/resume.h"

namespace sluice::launch {
namespace {

class Adapter : public Command {
 public:
  std::string name() const override { return "adapter"; }
  std::string summary() const override { return "LoRA adapters of a run as PEFT reads them"; }
  std::string description() const override {
    return "Writes adapter_model.safetensors and adapter_config.json, one A and one B a module\n"
           "(experts apart), to be loaded on top of the base model.\n\n"
           "  sluice adapter --checkpoint runs/lora --to adapters/task --base org/model";
  }
  FlagSet flags() override {
    return {CheckpointFlag(checkpoint_),
            {.name = "--to",
             .value = "DIR",
             .help = "the folder to write to",
             .target = &to_,
             .required = true},
            {.name = "--base",
             .value = "NAME",
             .help = "the base model's name or folder, for base_model_name_or_path",
             .target = &base_}};
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    const auto files = checkpoints::CreatePosixFileSystem();
    const auto self = parallel::CreateSelfCommunicator();
    trainer::RankContext rank;
    rank.world = self.get();
    ASSIGN_OR_RETURN(const std::string generation,
                     trainer::FindCheckpoint(checkpoint_, rank, *files));
    ASSIGN_OR_RETURN(const trainer::AdapterExport done,
                     trainer::ExportAdapter(*files, generation, base_, to_));
    std::printf("%s: adapters of %lld modules, %lld parameters, to %s\n", generation.c_str(),
                static_cast<long long>(done.num_modules),                 // NOLINT
                static_cast<long long>(done.num_elements), to_.c_str());  // NOLINT
    if (done.num_left_out > 0) {
      std::printf("left out: %lld modules of multi-token prediction\n",
                  static_cast<long long>(done.num_left_out));  // NOLINT
    }
    return absl::OkStatus();
  }

 private:
  std::string checkpoint_, to_, base_;
};

}  // namespace

std::unique_ptr<Command> CreateAdapterCommand() { return std::make_unique<Adapter>(); }

}  // namespace sluice::launch
