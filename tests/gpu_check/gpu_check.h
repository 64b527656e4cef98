// What the tests of this package ask of its main().
#pragma once

#include <string>

namespace sluice::testing {

// Where results go: progress.txt, golden/. Set by --folder; "gpu_check_results" by default.
const std::string& ResultsFolder();

// Where vectors of another run lie that golden ones are compared with; "" for none.
const std::string& AgainstFolder();

// Whether this is the CUDA device made of software, which has no speed.
bool IsSoftwareDevice();

}  // namespace sluice::testing
