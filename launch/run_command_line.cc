#include "launch/run_command_line.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/finish_together.h"
#include "launch/parse_flags.h"
#include "launch/stop_signal.h"
#include "launch/suggest.h"
#include "parallel/comm/mpi.h"

namespace sluice::launch {
namespace {

constexpr int kOk = 0;
constexpr int kFailed = 1;
constexpr int kUsage = 2;

void PrintError(absl::string_view message) {
  std::fprintf(stderr, "sluice: %s\n", std::string(message).c_str());
}

using Commands = std::vector<std::unique_ptr<Command>>;

Command* Find(const Commands& commands, const std::string& name) {
  const auto found = std::find_if(commands.begin(), commands.end(),
                                  [&](const auto& command) { return command->name() == name; });
  return found == commands.end() ? nullptr : found->get();
}

int UnknownCommand(const Commands& commands, const std::string& name) {
  std::vector<std::string> names = {"help"};
  for (const auto& command : commands) names.push_back(command->name());
  PrintError(absl::StrCat("there is no command '", name, "'", DidYouMean(name, names),
                          " (see `sluice help`)"));
  return kUsage;
}

int Help(const Commands& commands, const std::string& name) {
  if (name.empty()) {
    std::fputs(HelpText(commands).c_str(), stdout);
    return kOk;
  }
  Command* command = Find(commands, name);
  if (command == nullptr) return UnknownCommand(commands, name);
  std::fputs(HelpText(*command).c_str(), stdout);
  return kOk;
}

int RunAlone(Command& command, const std::vector<std::string>& arguments) {
  if (const absl::Status status = ParseFlags(command, arguments); !status.ok()) {
    PrintError(status.message());
    return kUsage;
  }
  if (const absl::Status status = command.Run(CommandContext()); !status.ok()) {
    PrintError(status.message());
    return kFailed;
  }
  return kOk;
}

int RunOnRanks(Command& command, const std::vector<std::string>& arguments,
               parallel::MpiSession& session) {
  const std::unique_ptr<parallel::Communicator> world = session.World();
  SetRankForCheckFailures(world->rank());
  if (const absl::Status status = ParseFlags(command, arguments); !status.ok()) {
    if (world->rank() == 0) PrintError(status.message());
    return kUsage;
  }
  auto ending = world->Split(0, world->rank());
  if (!ending.ok()) {
    PrintError(ending.status().message());
    return kFailed;
  }
  CatchStopSignals();
  const CommandContext context = {.world = world.get(),
                                  .ranks_on_host = session.ranks_on_host(),
                                  .rank_on_host = session.rank_on_host()};
  // Long enough for ranks that fail a moment later for the same reason, short for a person to wait.
  constexpr std::chrono::seconds kPatience(5);
  return FinishTogether(command.Run(context), **ending, kPatience).ok() ? kOk : kFailed;
}

}  // namespace

std::string VersionText() { return "sluice " SLUICE_VERSION "\n"; }

int RunCommandLine(int argc, char** argv) {
  const Commands commands = AllCommands();
  const std::vector<std::string> words(argv + 1, argv + argc);
  const auto has = [&](absl::string_view word) {
    return std::find(words.begin(), words.end(), word) != words.end();
  };
  if (words.empty()) {
    std::fputs(HelpText(commands).c_str(), stderr);
    return kUsage;
  }
  if (words[0] == "--version" || words[0] == "version") {
    std::fputs(VersionText().c_str(), stdout);
    return kOk;
  }
  if (words[0] == "help" || words[0] == "--help" || words[0] == "-h") {
    return Help(commands, words.size() > 1 ? words[1] : "");
  }
  Command* command = Find(commands, words[0]);
  if (command == nullptr) return UnknownCommand(commands, words[0]);
  if (has("--help") || has("-h")) return Help(commands, words[0]);
  const std::vector<std::string> arguments(words.begin() + 1, words.end());
  // (The doctor must work where MPI does not, unless it is asked what MPI can do.)
  const bool calibrates = std::any_of(words.begin(), words.end(), [](const std::string& word) {
    return absl::StartsWith(word, "--calibrate");
  });
  const bool on_ranks = command->runs_on_ranks() || (words[0] == "doctor" && calibrates);
  if (!on_ranks) return RunAlone(*command, arguments);
  auto session = parallel::MpiSession::Create(&argc, &argv);
  if (!session.ok()) {
    PrintError(session.status().message());
    return kFailed;
  }
  return RunOnRanks(*command, arguments, **session);
}

}  // namespace sluice::launch
