#include "tests/support/source_path.h"

namespace sluice::testing {

// The only file of the tests that is compiled with the tree's place, so that a compiler cache
// serves all others in every checkout.
std::string SourcePath(const std::string& path) {
  return path.empty() ? SLUICE_SOURCE_DIR : std::string(SLUICE_SOURCE_DIR "/") + path;
}

}  // namespace sluice::testing
