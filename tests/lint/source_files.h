// The project's own text files, for the tests that read them.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/source_path.h"

namespace sluice {

struct SourceFile {
  std::string path;                // from the project's root, with '/'
  std::vector<std::string> lines;  // without their ends
  std::string folder() const {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
  }
  bool has_suffix(const std::string& suffix) const {
    return path.size() >= suffix.size() &&
           path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0;
  }
  bool has_any_suffix(const std::vector<std::string>& suffixes) const {
    return std::any_of(suffixes.begin(), suffixes.end(),
                       [&](const std::string& suffix) { return has_suffix(suffix); });
  }
};

inline SourceFile ReadSourceFile(const std::string& path) {
  SourceFile file = {.path = path, .lines = {}};
  std::ifstream in(testing::SourcePath(path), std::ios::binary);
  for (std::string line; std::getline(in, line);) file.lines.push_back(line);
  return file;
}

// All files below `folders` (with "" only those of the root itself), in order of their paths, but
// for tests/golden: data that tests compare with.
inline std::vector<SourceFile> ReadSourceFiles(const std::vector<std::string>& folders) {
  namespace fs = std::filesystem;
  const fs::path root = testing::SourcePath("");
  std::vector<std::string> paths;
  for (const std::string& folder : folders) {
    if (folder.empty()) {
      for (const auto& entry : fs::directory_iterator(root)) {
        const std::string name = entry.path().filename().string();
        if (entry.is_regular_file() && name != ".git") paths.push_back(name);
      }
    } else if (fs::is_directory(root / folder)) {
      for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
        if (!entry.is_regular_file()) continue;
        const std::string path = fs::relative(entry.path(), root).string();
        if (path.rfind("tests/golden/", 0) != 0) paths.push_back(path);
      }
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<SourceFile> files;
  for (const std::string& path : paths) files.push_back(ReadSourceFile(path));
  return files;
}

inline std::vector<std::string> CodeFolders() {
  return {"kernels", "parallel", "data", "checkpoints", "trainer", "launch", "tests"};
}

}  // namespace sluice
