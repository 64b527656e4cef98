#include "tests/bench/report.h"

#include <cmath>

#include "kernels/core/check.h"

namespace sluice::bench {

Report::Report(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument != "--json") {
      parts_.push_back(argument);
      continue;
    }
    CHECK(i + 1 < argc) << "--json: found nothing, wanted a file";
    file_ = std::fopen(argv[++i], "a");
    CHECK(file_ != nullptr) << argv[i] << ": cannot be written";
  }
}

Report::~Report() {
  if (file_ != nullptr) std::fclose(file_);
}

void Report::Add(const std::vector<std::pair<std::string, std::string>>& texts,
                 const std::vector<std::pair<std::string, double>>& numbers) {
  if (file_ == nullptr) return;
  const char* comma = "{";
  for (const auto& [name, value] : texts) {
    std::fprintf(file_, "%s\"%s\": \"%s\"", comma, name.c_str(), value.c_str());
    comma = ", ";
  }
  for (const auto& [name, value] : numbers) {
    if (!std::isfinite(value)) continue;
    std::fprintf(file_, "%s\"%s\": %.9g", comma, name.c_str(), value);
    comma = ", ";
  }
  std::fprintf(file_, "}\n");
  std::fflush(file_);
}

}  // namespace sluice::bench
