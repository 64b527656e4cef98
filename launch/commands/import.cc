// `sluice import`: a Hugging Face directory becomes a checkpoint.
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernels/core/status_macros.h"
#include "launch/certificate_summary.h"
#include "launch/commands/commands.h"
#include "launch/load_config.h"
#include "launch/progress_bar.h"
#include "trainer/loop/huggingface.h"

namespace sluice::launch {
namespace {

class Import : public Command {
 public:
  std::string name() const override { return "import"; }
  std::string summary() const override { return "a Hugging Face directory becomes a checkpoint"; }
  std::string description() const override {
    return "Reads config.json and *.safetensors of DeepSeek-V2/V3/R1 (also FP8), Moonlight, "
           "Qwen3-MoE,\n"
           "Mixtral or OLMoE. Nothing is written before every tensor has been found, and found "
           "finite.\n\n"
           "  sluice import --from Moonlight-16B-A3B --to runs/moonlight\n"
           "  sluice score --checkpoint runs/moonlight\n"
           "  launch/run -np 4 sluice train --config runs/moonlight/config.textproto \\\n"
           "      --set run.init_from=runs/moonlight --set run.dir=runs/tuned ...\n\n"
           "The certificate, a line a tensor, is DIR/huggingface/certificate.txt and .json.";
  }
  FlagSet flags() override {
    return {{.name = "--from",
             .value = "DIR",
             .help = "the Hugging Face directory",
             .target = &request_.from,
             .required = true},
            {.name = "--to",
             .value = "DIR",
             .help = "the run folder to make",
             .target = &request_.to,
             .required = true},
            {.name = "--set",
             .value = "PATH=VALUE",
             .help = "changes the configuration that is stored with the weights",
             .target = &edits_},
            {.name = "--ignore",
             .value = "KEY",
             .help = "a key of config.json that is unknown here and changes nothing",
             .target = &ignore_},
            {.name = "--no-mtp",
             .help = "leave the multi-token prediction layers out",
             .target = &request_.without_mtp},
            {.name = "--json", .help = "one JSON object instead of lines", .target = &json_}};
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    ProgressBar bar("import");
    request_.ignore = std::set<std::string>(ignore_.begin(), ignore_.end());
    request_.edit = [&](trainer::RunConfig& config) { return ApplyEdits(edits_, config); };
    request_.print = [](const std::string& line) {
      std::fprintf(stderr, "sluice: %s\n", line.c_str());
    };
    request_.progress = [&](int64_t done, int64_t total) { bar.Show(done, total); };
    ASSIGN_OR_RETURN(const trainer::ImportResult result, trainer::ImportHuggingFace(request_));
    std::puts(CertificateSummary(result.generation, result.certificate, json_).c_str());
    return absl::OkStatus();
  }

 private:
  trainer::ImportRequest request_;
  std::vector<std::string> edits_, ignore_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateImportCommand() { return std::make_unique<Import>(); }

}  // namespace sluice::launch
