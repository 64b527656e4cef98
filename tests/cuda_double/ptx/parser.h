// PTX text to kernels.
#pragma once

#include <string>

#include "tests/cuda_double/ptx/ir.h"

namespace sluice::cuda_double {

// Fills `module`; "" or what is wrong, with its line. Directives that are not known are errors. The
// instructions come out undecoded (see exec/decode.h).
std::string ParseModule(const std::string& text, Module& module);

}  // namespace sluice::cuda_double
