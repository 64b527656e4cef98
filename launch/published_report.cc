// The table of published runs: `sluice plan --published`, `--run`.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launch/plan_report.h"

namespace sluice::launch {
namespace {

std::string ErrorText(double predicted, double published) {
  return absl::StrFormat("%+6.1f%%", 100 * (predicted / published - 1));
}

// What a run cost in all, where that was published.
std::string TotalsText(const PublishedCheck& check) {
  std::string text;
  const auto line = [&text](const char* what, const std::string& predicted,
                            const std::string& published, const std::string& error) {
    absl::StrAppendFormat(&text, "  %-30s %9s %9s %s\n", what, predicted, published, error);
  };
  const auto thousands = [](double value) { return absl::StrFormat("%.1fK", value / 1e3); };
  const auto hours = [&](const char* what, double predicted, double published) {
    if (published > 0)
      line(what, thousands(predicted), thousands(published), ErrorText(predicted, published));
  };
  hours("device hours for 1e12 tokens", check.hours_per_trillion(),
        check.run.published_hours_per_trillion());
  hours("device hours", check.predicted.device_hours, check.run.published_device_hours());
  if (check.run.published_dollars() > 0) {
    line("cost", Money(check.predicted.dollars), Money(check.run.published_dollars()),
         ErrorText(check.predicted.dollars, check.run.published_dollars()));
  }
  return text;
}

std::string RowText(const PublishedCheck& check) {
  const std::string target =
      check.run.target() > 0 ? absl::StrFormat("%.0f%%", 100 * check.run.target()) : "-";
  const bool has_left_out = check.left_out_seconds > 0;
  return absl::StrFormat(
      "%-32s %9.2f %9.2f %s %9s %7s %7s %5.1f%% %5.1f%%\n", check.run.name(),
      check.predicted.step_seconds, check.published_seconds,
      ErrorText(check.predicted.step_seconds, check.published_seconds),
      has_left_out ? absl::StrFormat("%.2f", check.left_out_seconds) : "-",
      has_left_out ? ErrorText(check.left_out_seconds, check.published_seconds) : "-", target,
      100 * check.predicted.bubble, 100 * check.predicted.exposed);
}

// "median error 7.7%, left-out 9.0%; 5 of 5 rows meet their target, left-out 5".
std::string SummaryText(const std::vector<PublishedCheck>& checks) {
  std::vector<double> errors, left_out;
  int with_target = 0, met = 0, met_left_out = 0;
  for (const PublishedCheck& check : checks) {
    if (!check.not_checkable.empty()) continue;
    errors.push_back(std::abs(check.error()));
    if (check.left_out_seconds > 0) left_out.push_back(std::abs(check.left_out_error()));
    if (check.run.target() <= 0) continue;
    ++with_target;
    met += errors.back() <= check.run.target();
    met_left_out += check.left_out_seconds > 0 && left_out.back() <= check.run.target();
  }
  if (errors.empty()) return "";
  const auto median = [](std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    return absl::StrFormat("%.1f%%", 100 * values[values.size() / 2]);
  };
  std::string text = absl::StrCat("median error ", median(errors));
  if (!left_out.empty()) absl::StrAppend(&text, ", left-out ", median(left_out));
  if (with_target > 0)
    absl::StrAppend(&text, "; ", met, " of ", with_target, " rows meet their target");
  if (with_target > 0 && !left_out.empty()) absl::StrAppend(&text, ", left-out ", met_left_out);
  return text + "\n";
}

}  // namespace

std::string PublishedText(const std::vector<PublishedCheck>& checks, double expert_cv) {
  std::string text = absl::StrFormat(
      "# step seconds; one set of constants for all (launch/clusters); real routing: expert load "
      "spread %.2f\n# left-out: times the geometric mean of published / predicted of all other "
      "rows\n%-32s %9s %9s %7s %9s %7s %7s %6s %6s\n",
      expert_cv, "run", "predicted", "published", "error", "left-out", "error", "target", "bubble",
      "expos");
  for (const PublishedCheck& check : checks) {
    if (check.not_checkable.empty()) absl::StrAppend(&text, RowText(check), TotalsText(check));
  }
  text += SummaryText(checks);
  for (const PublishedCheck& check : checks) {
    if (!check.not_checkable.empty())
      absl::StrAppend(&text, check.run.name(), ": not checkable, ", check.not_checkable, "\n");
    if (check.run.has_remark())
      absl::StrAppend(&text, check.run.name(), ": ", check.run.remark(), "\n");
  }
  return text;
}

Json PublishedJson(const std::vector<PublishedCheck>& checks) {
  Json rows = Json::array();
  for (const PublishedCheck& check : checks) {
    Json row = {{"name", check.run.name()}, {"source", check.run.source()}};
    if (check.run.has_remark()) row["remark"] = check.run.remark();
    if (!check.not_checkable.empty()) {
      row["not_checkable"] = check.not_checkable;
      rows.push_back(row);
      continue;
    }
    row["predicted_seconds"] = check.predicted.step_seconds;
    row["published_seconds"] = check.published_seconds;
    row["error"] = check.error();
    if (check.left_out_seconds > 0) row["left_out_error"] = check.left_out_error();
    if (check.run.target() > 0) row["target"] = check.run.target();
    if (check.run.tokens() > 0) {
      row["device_hours_per_trillion_tokens"] = check.hours_per_trillion();
      row["device_hours"] = check.predicted.device_hours;
      row["dollars"] = check.predicted.dollars;
    }
    rows.push_back(row);
  }
  return {{"runs", rows}};
}

}  // namespace sluice::launch
