// `sluice doctor`: what this machine offers a run, and what is missing.
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <tuple>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "kernels/cpu/target.h"
#include "launch/calibrate.h"
#include "launch/commands/commands.h"
#include "launch/json_text.h"
#include "launch/load_config.h"
#include "launch/machine.h"
#include "launch/rank_context.h"
#include "trainer/loop/run_state.h"
#include "trainer/model/model_config.h"

namespace sluice::launch {
namespace {

struct Finding {
  std::string what;
  Json value;        // for scripts
  std::string text;  // for people
  bool is_good = true;
};

// The output of a shell command, or nothing if it failed.
std::optional<std::string> OutputOf(const std::string& command) {
  FILE* pipe = popen(absl::StrCat(command, " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string output;
  std::array<char, 4096> chunk;
  while (const size_t n = fread(chunk.data(), 1, chunk.size(), pipe))
    output.append(chunk.data(), n);
  if (pclose(pipe) != 0) return std::nullopt;
  return output;
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

Finding System() {
  utsname name = {};
  uname(&name);
  const std::string text = absl::StrCat(name.sysname, " ", name.release, " ", name.machine);
  return {.what = "system", .value = text, .text = text};
}

Finding Cores() {
  const int cores = UsableCores();
  return {.what = "cores", .value = cores, .text = absl::StrCat(cores, " usable by this process")};
}

Finding Simd() {
  const std::string target(kernels::cpu::TargetName());
  std::vector<std::string> all;
  for (const kernels::cpu::Target each : kernels::cpu::AvailableTargets()) {
    all.emplace_back(kernels::cpu::NameOf(each));
  }
  const bool is_good = target != "scalar";
  return {.what = "simd",
          .value = target,
          .text = absl::StrCat(target, is_good ? "" : "; AVX2 or newer is many times faster"),
          .is_good = is_good};
}

Finding Memory() {
  const MemorySize memory = ReadMemorySize();
  return {.what = "memory",
          .value = {{"total_bytes", memory.total_bytes}, {"free_bytes", memory.available_bytes}},
          .text = absl::StrCat(Gibibytes(memory.total_bytes), ", ",
                               Gibibytes(memory.available_bytes), " free"),
          .is_good = memory.available_bytes > (int64_t{1} << 30)};
}

Finding Disk() {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::current_path(error);
  const std::filesystem::space_info space = std::filesystem::space(here, error);
  if (error) return {"disk", nullptr, absl::StrCat("unknown: ", error.message()), false};
  const auto free_bytes = static_cast<int64_t>(space.available);
  return {.what = "disk",
          .value = {{"path", here.string()}, {"free_bytes", free_bytes}},
          .text = absl::StrCat(Gibibytes(free_bytes), " free in ", here.string()),
          .is_good = free_bytes > (int64_t{1} << 30)};
}

Finding Mpi() {
  const std::optional<std::string> version = OutputOf("mpirun --version");
  if (!version.has_value()) {
    return {"mpi", nullptr, "no mpirun on the PATH: only runs of one rank are possible", false};
  }
  return {.what = "mpi", .value = FirstLine(*version), .text = FirstLine(*version)};
}

Finding Ranks() {
  // What mpirun or srun told this process; without them it is alone.
  int ranks = 1;
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}) {
    const char* value = std::getenv(variable);
    if (value != nullptr && absl::SimpleAtoi(value, &ranks)) break;
  }
  return {.what = "ranks",
          .value = ranks,
          .text = ranks > 1 ? absl::StrCat(ranks)
                            : "1 (under `launch/run -np N` this shows how many there are)"};
}

Finding Cuda() {
  for (const std::string nvcc : {"nvcc", "/usr/local/cuda/bin/nvcc"}) {
    const std::optional<std::string> output = OutputOf(nvcc + " --version");
    if (!output.has_value()) continue;
    std::string version = "unknown version";
    for (const absl::string_view line : absl::StrSplit(*output, '\n')) {
      const size_t at = line.find("release ");
      if (at != line.npos) version = std::string(line.substr(at));
    }
    return {.what = "cuda_toolkit",
            .value = version,
            .text = version + "; what the CUDA backend is built with"};
  }
  return {.what = "cuda_toolkit", .value = nullptr, .text = "none; not needed on the CPU"};
}

class Doctor : public Command {
 public:
  std::string name() const override { return "doctor"; }
  std::string summary() const override { return "checks what this machine offers a run"; }
  std::string description() const override {
    return "Prints cores, SIMD target, memory, disk space here, MPI, and the CUDA toolkit if there "
           "is\n"
           "one. Exit code 1 when something a run needs is missing.\n"
           "--calibrate measures products, attention, memory, optimizer and, under launch/run, "
           "what "
           "ranks\n"
           "send each other, and writes a cluster file for plan and simulate. Shapes, tokens and "
           "threads\n"
           "are those of --preset (default bench_cpu); best on as many ranks as the machine has "
           "cores.\n\n"
           "  sluice doctor\n"
           "  sluice doctor --json\n"
           "  launch/run -np 2 sluice doctor --calibrate here.textproto --preset laptop";
  }
  FlagSet flags() override {
    FlagSet flags = {
        {.name = "--json", .help = "one JSON object instead of lines", .target = &json_},
        {.name = "--calibrate",
         .value = "FILE",
         .help = "measure this machine, write a cluster file",
         .target = &calibrate_}};
    const FlagSet shapes = FlagsOf(config_flags_);
    flags.insert(flags.end(), shapes.begin(), shapes.end());
    return flags;
  }

  absl::Status Run(const CommandContext& context) override {
    const bool has_shapes = !config_flags_.preset.empty() || !config_flags_.file.empty() ||
                            !config_flags_.edits.empty();
    if (calibrate_.empty() ? has_shapes : json_) {
      return absl::InvalidArgumentError(
          calibrate_.empty() ? "doctor: found --preset, --config or --set, wanted --calibrate FILE "
                               "with them"
                             : "doctor: found --json with --calibrate, wanted one of them");
    }
    if (!calibrate_.empty()) return WriteCalibration(context);
    // Under mpirun every rank gets here; one speaks.
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    if (rank != nullptr && absl::string_view(rank) != "0") return absl::OkStatus();
    const std::vector<Finding> findings = {System(), Cores(), Simd(),  Memory(),
                                           Disk(),   Mpi(),   Ranks(), Cuda()};
    std::string missing;
    Json object = {{"version", SLUICE_VERSION}};
    for (const Finding& finding : findings) {
      object[finding.what] = finding.value;
      if (!json_) {
        std::printf("%-13s %s %s\n", finding.what.c_str(), finding.is_good ? "  " : "!!",
                    finding.text.c_str());
      }
      if (!finding.is_good) absl::StrAppend(&missing, missing.empty() ? "" : ", ", finding.what);
    }
    object["ok"] = missing.empty();
    if (json_) std::puts(JsonText(object).c_str());
    if (missing.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("doctor: this machine falls short in: ", missing));
  }

 private:
  absl::Status WriteCalibration(const CommandContext& context) {
    ConfigFlags shapes = config_flags_;
    if (shapes.preset.empty() && shapes.file.empty()) shapes.preset = "bench_cpu";
    ASSIGN_OR_RETURN(trainer::RunConfig config, LoadConfig(shapes));
    trainer::ResolveModel(*config.mutable_model());
    RETURN_IF_ERROR(trainer::ValidateModel(config.model()));
    trainer::TrainConfig& train = *config.mutable_train();
    if (!train.has_sequence_length()) train.set_sequence_length(256);
    if (!train.has_microbatch()) train.set_microbatch(1);
    for (const auto& [field, value, least] :
         {std::tuple("train.sequence_length", train.sequence_length(), 1),
          std::tuple("train.microbatch", train.microbatch(), 1),
          std::tuple("compute.threads", config.compute().threads(), 0)}) {
      if (value >= least) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": found ", value, ", wanted at least ", least));
    }
    if (config.compute().device() == "cuda") {
      return absl::UnimplementedError(
          "compute.device: found cuda, wanted cpu: --calibrate measures CPUs only");
    }
    // Before a measurement that nobody could keep.
    absl::Status writable;
    if (context.is_first_rank() && !std::ofstream(calibrate_, std::ios::app))
      writable = CannotWrite();
    RETURN_IF_ERROR(trainer::AgreeOnStatus(*context.world, writable));
    ASSIGN_OR_RETURN(const auto device, CreateDevice(config.compute(), context));
    const int64_t length = train.sequence_length();
    ASSIGN_OR_RETURN(
        const Calibration calibration,
        Calibrate(config.model(), length * train.microbatch(), length, *context.world, *device));
    absl::Status written;
    if (context.is_first_rank()) {
      const std::string name = std::filesystem::path(calibrate_).stem().string();
      const std::string text = ClusterText(calibration, name);
      std::ofstream out(calibrate_, std::ios::trunc);
      out << text;
      out.close();
      if (!out) written = CannotWrite();
      if (out) std::fputs(text.c_str(), stdout);
    }
    return trainer::AgreeOnStatus(*context.world, written);
  }

  absl::Status CannotWrite() const {
    return absl::UnavailableError(absl::StrCat(calibrate_, ": cannot be written"));
  }

  bool json_ = false;
  std::string calibrate_;
  ConfigFlags config_flags_;
};

}  // namespace

std::unique_ptr<Command> CreateDoctorCommand() { return std::make_unique<Doctor>(); }

}  // namespace sluice::launch
