// A file of JSON lines, as metrics.jsonl is.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sluice::launch {

// One value a line; none where the file cannot be opened. Throws where a line is not JSON.
inline std::vector<nlohmann::json> JsonRows(const std::string& path) {
  std::ifstream file(path);
  std::vector<nlohmann::json> rows;
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

}  // namespace sluice::launch
