// `sluice train`: trains, or resumes what run.dir holds.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status_macros.h"
#include "launch/bundled_text.h"
#include "launch/commands/commands.h"
#include "launch/load_config.h"
#include "launch/presets.h"
#include "launch/rank_context.h"
#include "trainer/loop/trainer.h"

namespace sluice::launch {
namespace {

class Train : public Command {
 public:
  std::string name() const override { return "train"; }
  std::string summary() const override { return "trains a model, or resumes a run"; }
  std::string description() const override {
    std::string presets;
    for (const Preset& preset : Presets()) absl::StrAppend(&presets, " ", preset.name);
    return absl::StrCat(
        "The same command again resumes what run.dir holds. SIGUSR1, SIGTERM and SIGINT save a\n"
        "checkpoint and end the run with exit code 0; under mpirun start it with launch/run, "
        "which\n"
        "passes them on.\n\n"
        "  sluice train --preset laptop\n"
        "  launch/run -np 4 sluice train --preset laptop --set mesh.pipe=2 --set mesh.data=2 \\\n"
        "      --set mesh.expert=2 --set run.dir=runs/first --set train.steps=100\n"
        "  sluice train --preset deepseek_v3 --dry-run --set mesh.pipe=16 --set mesh.data=128\n\n"
        "presets:",
        presets, "\n\nfields of --set: see trainer/loop/run_config.proto, or any of\n",
        FieldColumns());
  }
  bool runs_on_ranks() const override { return true; }
  FlagSet flags() override {
    FlagSet flags = FlagsOf(config_flags_);
    flags.push_back({.name = "--device",
                     .value = "cpu|cuda",
                     .help = "what computes: short for --set compute.device=...",
                     .target = &device_});
    flags.push_back({.name = "--dry-run",
                     .help = "print parameters, memory table and mesh, and do not train",
                     .target = &dry_run_});
    return flags;
  }

  absl::Status Run(const CommandContext& context) override {
    if (!device_.empty()) config_flags_.edits.push_back("compute.device=" + device_);
    ASSIGN_OR_RETURN(trainer::RunConfig written, LoadConfig(config_flags_));
    if (dry_run_) return DryRun(written, context);
    RETURN_IF_ERROR(UseBundledText(written));
    ASSIGN_OR_RETURN(const trainer::RunConfig config,
                     trainer::Resolve(written, context.world->size()));
    ASSIGN_OR_RETURN(const auto device, CreateDevice(config.compute(), context));
    return trainer::Train(config, MakeRankContext(context, *device, stdout));
  }

 private:
  // A mesh larger than this job can be described too: alone, the mesh says how many ranks.
  absl::Status DryRun(const trainer::RunConfig& written, const CommandContext& context) {
    int world_size = context.world->size();
    if (world_size == 1 && written.has_mesh()) {
      world_size = std::max(1, written.mesh().pipe()) * std::max(1, written.mesh().data());
    }
    ASSIGN_OR_RETURN(const trainer::RunConfig config, trainer::Resolve(written, world_size));
    ASSIGN_OR_RETURN(const std::string text, trainer::DryRun(config, world_size));
    if (context.is_first_rank()) std::printf("%s\n", text.c_str());
    return absl::OkStatus();
  }

  static std::string FieldColumns() {
    std::string text;
    size_t column = 0;
    for (const std::string& path : FieldPaths(*trainer::RunConfig::descriptor())) {
      if (column + path.size() + 2 > 98) {
        text += '\n';
        column = 0;
      }
      absl::StrAppend(&text, "  ", path);
      column += path.size() + 2;
    }
    return text;
  }

  ConfigFlags config_flags_;
  std::string device_;
  bool dry_run_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateTrainCommand() { return std::make_unique<Train>(); }

}  // namespace sluice::launch
