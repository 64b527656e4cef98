#include "tests/support/source_path.h"

#include <filesystem>

namespace sluice::testing {
namespace {

// The only file of the tests that is compiled with the tree's place, so that a compiler cache
// serves all others in every checkout.
std::string FindTop() {
  std::error_code error;
  if (std::filesystem::exists(SLUICE_SOURCE_DIR, error)) return SLUICE_SOURCE_DIR;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

}  // namespace

std::string SourcePath(const std::string& path) {
  static const auto* const top = new std::string(FindTop());
  return path.empty() ? *top : *top + "/" + path;
}

}  // namespace sluice::testing
