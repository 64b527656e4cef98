// What the tests train on.
#pragma once

#include <fstream>
#include <string>

namespace sluice {

// DIR/train.txt: a thousand short lines. No text for validation: it would be read as a whole at the
// end.
inline void WriteTrainingText(const std::string& dir) {
  std::ofstream text(dir + "/train.txt");
  for (int i = 0; i < 1000; ++i) text << i << " comes after " << i - 1 << ", as always.\n";
}

}  // namespace sluice
