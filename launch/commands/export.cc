// `sluice export`: a checkpoint becomes a Hugging Face directory.
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "launch/certificate_summary.h"
#include "launch/commands/commands.h"
#include "launch/progress_bar.h"
#include "trainer/loop/huggingface.h"

namespace sluice::launch {
namespace {

using checkpoints::ExportType;

class Export : public Command {
 public:
  std::string name() const override { return "export"; }
  std::string summary() const override { return "a checkpoint becomes a Hugging Face directory"; }
  std::string description() const override {
    return "Writes config.json, safetensors with their index, tokenizer and all other files that "
           "came\n"
           "with an import. What training did not touch is written byte for byte as it came.\n\n"
           "  sluice export --from runs/tuned --to tuned-hf\n"
           "  sluice export --from runs/tuned --to tuned-fp8 --dtype fp8\n"
           "                                     DeepSeek's E4M3 with a scale a block of 128 x "
           "128\n\n"
           "The certificate, a line a tensor, is DIR/certificate.txt and .json.";
  }
  FlagSet flags() override {
    return {{.name = "--from",
             .value = "DIR",
             .help = "a generation's folder, or a run's: its newest good one",
             .target = &request_.from,
             .required = true},
            {.name = "--to",
             .value = "DIR",
             .help = "the directory to make",
             .target = &request_.to,
             .required = true},
            {.name = "--dtype",
             .value = "TYPE",
             .help = "bf16, fp8 or fp32; default: each tensor's type in the imported model, or "
                     "bf16",
             .target = &dtype_},
            {.name = "--ema",
             .help = "the moving average of the weights (train.ema_decay)",
             .target = &average_},
            {.name = "--source",
             .value = "DIR",
             .help = "the import that training started from; default: found by run.init_from",
             .target = &request_.source},
            {.name = "--shard-gb",
             .value = "GB",
             .help = "largest file, where the source does not say how to cut",
             .target = &shard_gb_},
            {.name = "--ignore",
             .value = "KEY",
             .help = "a key of the source's config.json, as at import",
             .target = &ignore_},
            {.name = "--json", .help = "one JSON object instead of lines", .target = &json_}};
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    if (dtype_ == "bf16") {
      request_.type = ExportType::kBf16;
    } else if (dtype_ == "fp8") {
      request_.type = ExportType::kFp8;
    } else if (dtype_ == "fp32") {
      request_.type = ExportType::kF32;
    } else if (!dtype_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("export: --dtype: found ", dtype_, ", wanted bf16, fp8 or fp32"));
    }
    if (!(shard_gb_ > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("export: --shard-gb: found ", shard_gb_, ", wanted more than 0"));
    }
    if (average_) request_.weights = checkpoints::WeightSet::kAverage;
    ProgressBar bar("export");
    request_.shard_bytes = static_cast<int64_t>(shard_gb_ * 1e9);
    request_.ignore = std::set<std::string>(ignore_.begin(), ignore_.end());
    request_.print = [](const std::string& line) {
      std::fprintf(stderr, "sluice: %s\n", line.c_str());
    };
    request_.progress = [&](int64_t done, int64_t total) { bar.Show(done, total); };
    ASSIGN_OR_RETURN(const checkpoints::Certificate certificate,
                     trainer::ExportHuggingFace(request_));
    std::puts(CertificateSummary(request_.to, certificate, json_).c_str());
    return absl::OkStatus();
  }

 private:
  trainer::ExportRequest request_;
  std::string dtype_;
  double shard_gb_ = 5;
  std::vector<std::string> ignore_;
  bool average_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateExportCommand() { return std::make_unique<Export>(); }

}  // namespace sluice::launch
