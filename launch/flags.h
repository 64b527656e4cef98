// The flags of one command: each a name, a sentence, and the variable it fills.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace sluice::launch {

struct Flag {
  // Switch, number, text, or text that may be given several times.
  using Target = std::variant<bool*, int64_t*, double*, std::string*, std::vector<std::string>*>;
  std::string name;   // "--preset", or "INPUT" for what stands without a name
  std::string value;  // what the help calls its value: "NAME"; empty for a switch
  std::string help;
  Target target;  // keeps its value when the flag is not given
  bool required = false;

  bool is_positional() const { return name[0] != '-'; }
};

using FlagSet = std::vector<Flag>;

// --checkpoint of the commands that read one.
inline Flag CheckpointFlag(std::string& target) {
  return {.name = "--checkpoint",
          .value = "DIR",
          .help = "a generation's folder, or a run's: its newest good one",
          .target = &target,
          .required = true};
}

}  // namespace sluice::launch
