#pragma once

#include <string>

namespace sluice::testing {

// The absolute path of a file or folder of the source tree; `path` is relative to its top, "" for
// the top itself. On a machine without the tree: below the folder of the program that asks.
std::string SourcePath(const std::string& path);

}  // namespace sluice::testing
