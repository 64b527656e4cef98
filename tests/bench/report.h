// Measurements for programs to read: one JSON object a line, in the file that --json names.
#pragma once

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace sluice::bench {

// The arguments of a benchmark: the names of its parts, and the file of --json if there is one.
class Report {
 public:
  Report(int argc, char** argv);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  const std::vector<std::string>& parts() const { return parts_; }
  // Does nothing without --json. `texts` and `numbers` are the fields; texts need no escapes.
  void Add(const std::vector<std::pair<std::string, std::string>>& texts,
           const std::vector<std::pair<std::string, double>>& numbers);

 private:
  std::vector<std::string> parts_;
  std::FILE* file_ = nullptr;
};

}  // namespace sluice::bench
