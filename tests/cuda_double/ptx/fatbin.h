// The PTX inside of a fat binary, as nvcc links it into a program.
#pragma once

#include <string>
#include <vector>

namespace sluice::cuda_double {

// The PTX texts that the wrapper given to __cudaRegisterFatBinary names; "" or what is wrong.
std::string ReadFatBinary(const void* wrapper, std::vector<std::string>& texts);

}  // namespace sluice::cuda_double
