#include "trainer/loop/step_line.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace sluice::trainer {
namespace {

std::string HexOf(double value) { return absl::StrFormat("%a", value); }

std::string Duration(double seconds) {
  const int64_t s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return absl::StrFormat("%dh%02dm", s / 3600, s / 60 % 60);
  return s >= 60 ? absl::StrFormat("%dm%02ds", s / 60, s % 60) : absl::StrFormat("%ds", s);
}

// The step of a row, -1 when it is no whole row.
int64_t StepOf(const std::string& row) {
  const nlohmann::json json = nlohmann::json::parse(row, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return -1;
  return json["step"].get<int64_t>();
}

void AddPlan(const StepReport& r, nlohmann::ordered_json& row) {
  using kernels::MemoryTag;
  const parallel::MemoryUse& use = r.planned->memory;
  row["planned_step_seconds"] = r.planned->seconds;
  const StepSeconds& parts = r.planned->parts;
  row["planned_seconds"] = {
      {"pipeline", parts.pipeline}, {"reduce", parts.reduce}, {"update", parts.update}};
  for (const auto& [tag, planned] : {std::pair(MemoryTag::kParameters, use.parameters),
                                     std::pair(MemoryTag::kGradients, use.gradients),
                                     std::pair(MemoryTag::kOptimizer, use.optimizer),
                                     std::pair(MemoryTag::kActivations, use.activations),
                                     std::pair(MemoryTag::kCommunication, use.communication),
                                     std::pair(MemoryTag::kScratch, use.scratch)}) {
    const std::string kind(kernels::NameOf(tag));
    row["planned_memory_bytes"][kind] = std::llround(planned);
    row["memory_bytes"][kind] = r.memory->bytes(tag);
  }
}

}  // namespace

double StepReport::tokens_per_second() const {
  return seconds > 0 ? static_cast<double>(result.num_targets) / seconds : 0;
}

double StepReport::share_of_peak() const {
  return peak_flops > 0 ? tokens_per_second() * flops_per_token / peak_flops : 0;
}

LoadSummary SummarizeLoad(const std::vector<int64_t>& load, int64_t num_experts) {
  LoadSummary summary;
  for (size_t begin = 0; num_experts > 0 && begin < load.size(); begin += num_experts) {
    const auto first = load.begin() + begin, last = first + num_experts;
    int64_t total = 0;
    for (auto it = first; it != last; ++it) total += *it;
    if (total == 0) continue;
    const double most = static_cast<double>(*std::max_element(first, last));
    summary.max_over_mean =
        std::max(summary.max_over_mean,
                 most * static_cast<double>(num_experts) / static_cast<double>(total));
    summary.dead_experts += std::count(first, last, 0);
  }
  return summary;
}

std::string RouteLines(int64_t step, const std::vector<int64_t>& load, int64_t num_experts,
                       int first_layer) {
  std::string lines;
  int layer = first_layer;
  for (size_t begin = 0; num_experts > 0 && begin < load.size(); begin += num_experts) {
    absl::StrAppend(&lines, "{\"step\": ", step, ", \"layer\": ", layer++, ", \"rows\": [");
    for (int64_t e = 0; e < num_experts; ++e)
      absl::StrAppend(&lines, e > 0 ? ", " : "", load[begin + e]);
    lines += "]}\n";
  }
  return lines;
}

std::string StepLine(const StepReport& r) {
  const int width = static_cast<int>(absl::StrCat(r.steps).size());
  const LoadSummary load = SummarizeLoad(r.result.load, r.num_experts);
  std::string line = absl::StrFormat(
      "step %*d/%d | loss %7.4f | mtp %7.4f | grad %7.3f | lr %.2e | %8.1f ms | %7.1f tok/s", width,
      r.step, r.steps, r.result.loss, r.result.mtp_loss, r.result.grad_norm, r.learning_rate,
      r.seconds * 1e3, r.tokens_per_second());
  if (r.peak_flops > 0) absl::StrAppendFormat(&line, " | peak %4.1f%%", r.share_of_peak() * 100);
  if (!r.result.load.empty())
    absl::StrAppendFormat(&line, " | load %5.2fx | dead %d", load.max_over_mean, load.dead_experts);
  if (r.planned != nullptr) {
    const double mib = 1048576.0;
    absl::StrAppendFormat(&line, " | plan %8.1f ms %6.0f MiB, has %6.0f", r.planned->seconds * 1e3,
                          r.planned->memory.total() / mib,
                          static_cast<double>(r.memory->total_bytes()) / mib);
  }
  absl::StrAppendFormat(&line, " | eta %s", Duration(r.eta_seconds));
  if (r.result.skipped)
    absl::StrAppend(&line, " | SKIPPED: not finite (", r.num_skipped, " so far)");
  return line;
}

std::string StepJson(const StepReport& r) {
  const LoadSummary load = SummarizeLoad(r.result.load, r.num_experts);
  // Ordered, so that rows are readable; a number that is not finite has its hex form and is null
  // here.
  nlohmann::ordered_json row;
  row["step"] = r.step;
  row["loss"] = r.result.loss;
  row["loss_hex"] = HexOf(r.result.loss);
  row["mtp_loss"] = r.result.mtp_loss;
  row["mtp_loss_hex"] = HexOf(r.result.mtp_loss);
  row["balance_loss"] = r.result.balance_loss;
  row["aux_loss"] = r.result.aux_loss;
  row["z_loss"] = r.result.z_loss;
  row["grad_norm"] = r.result.grad_norm;
  row["grad_norm_hex"] = HexOf(r.result.grad_norm);
  row["learning_rate"] = r.learning_rate;
  row["tokens"] = r.result.num_targets;
  row["tokens_per_second"] = r.tokens_per_second();
  row["step_seconds"] = r.seconds;
  const StepSeconds& parts = r.result.seconds;
  row["seconds"] = {
      {"pipeline", parts.pipeline}, {"reduce", parts.reduce}, {"update", parts.update}};
  row["share_of_peak"] = r.share_of_peak();
  row["expert_load_max_over_mean"] = load.max_over_mean;
  row["dead_experts"] = load.dead_experts;
  row["skipped"] = r.result.skipped;
  row["skipped_so_far"] = r.num_skipped;
  if (r.planned != nullptr) AddPlan(r, row);
  if (r.fp8_health != nullptr) {
    for (const auto& layer : r.fp8_health->layers()) {
      nlohmann::ordered_json& of = row["fp8"][layer->name];
      const std::pair<const char*, const kernels::QuantizationStats&> operands[] = {
          {"x", layer->x}, {"w", layer->w}, {"dy", layer->dy}};
      for (const auto& [name, stats] : operands) {
        of[name] = {{"amax", stats.amax},
                    {"count", stats.count},
                    {"underflows", stats.underflows},
                    {"clipped", stats.clipped}};
      }
      of["error"] = {{"y", layer->y.RelativeError()},
                     {"dx", layer->dx.RelativeError()},
                     {"dw", layer->dw.RelativeError()}};
      of["relative_error"] = layer->RelativeError();  // the largest
    }
  }
  return row.dump();
}

absl::StatusOr<MetricsFile> MetricsFile::Open(const std::string& path, int64_t last_step) {
  std::ifstream in(path);
  std::string kept, row;
  bool dropped = false;
  while (in && std::getline(in, row)) {
    const int64_t step = StepOf(row);
    if (step < 0 || step > last_step) {
      dropped = true;
      continue;
    }
    dropped = dropped || in.eof();  // a last row without its line end: the next would join it
    kept += row + "\n";
  }
  in.close();
  if (dropped) {
    const std::string temporary = path + ".new";
    std::ofstream out(temporary, std::ios::trunc);
    out << kept;
    out.close();
    if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
      return absl::UnavailableError(
          absl::StrCat(path, ": cannot be rewritten without the rows after step ", last_step));
    }
  }
  return MetricsFile(path);
}

absl::Status MetricsFile::Append(const std::string& json) {
  std::ofstream out(path_, std::ios::app);
  out << json << "\n";
  out.close();
  if (!out) return absl::UnavailableError(absl::StrCat(path_, ": cannot be written"));
  return absl::OkStatus();
}

}  // namespace sluice::trainer
