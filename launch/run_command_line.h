// `sluice <command> ...` from first to last.
#pragma once

#include <string>

namespace sluice::launch {

std::string VersionText();

// Runs what the command line says; returns the process's exit code: 0 done, 1 it failed, 2 the
// command line is wrong. Errors are one sentence on stderr, from one rank.
int RunCommandLine(int argc, char** argv);

}  // namespace sluice::launch
