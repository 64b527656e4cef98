// Command lines: the only file that sees CLI11 and its exceptions is parse_flags.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launch/command.h"

namespace sluice::launch {

// Fills the command's flags from `arguments` (what follows the command's name). INVALID_ARGUMENT:
// one sentence that names the flag, with the nearest known one.
absl::Status ParseFlags(Command& command, const std::vector<std::string>& arguments);

// The texts of `sluice help` and `sluice help NAME`.
std::string HelpText(const std::vector<std::unique_ptr<Command>>& commands);
std::string HelpText(Command& command);

}  // namespace sluice::launch
