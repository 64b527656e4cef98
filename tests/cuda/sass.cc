#include "tests/cuda/sass.h"

#include <cctype>
#include <sstream>

namespace sluice::testing {

// "\t\tFunction : _Z..." begins a kernel; "  /*0a10*/  @!P1 UTMALDG.2D [UR8], ... ;" is an
// instruction.
SassByKernel ParseSass(const std::string& text) {
  SassByKernel kernels;
  std::set<std::string>* kernel = nullptr;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::string function = "Function : ";
    if (const size_t at = line.find(function); at != line.npos) {
      kernel = &kernels[line.substr(at + function.size())];
      continue;
    }
    const size_t address = line.find("/*"), end = line.find("*/", address);
    if (kernel == nullptr || address == line.npos || end == line.npos) continue;
    std::istringstream words(line.substr(end + 2));
    std::string word;
    words >> word;
    if (!word.empty() && word[0] == '@') words >> word;
    const size_t length = word.find_first_of(".;");
    word = word.substr(0, length);
    if (!word.empty() && std::isupper(static_cast<unsigned char>(word[0]))) kernel->insert(word);
  }
  return kernels;
}

}  // namespace sluice::testing
