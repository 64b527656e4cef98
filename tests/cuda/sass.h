// What the machine code of kernels consists of, as cuobjdump prints it.
#pragma once

#include <map>
#include <set>
#include <string>

namespace sluice::testing {

// By mangled name: the instructions that a kernel has, without their modifiers ("QGMMA",
// "UTMALDG").
using SassByKernel = std::map<std::string, std::set<std::string>>;
SassByKernel ParseSass(const std::string& text);

}  // namespace sluice::testing
