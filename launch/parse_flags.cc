#include "launch/parse_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "launch/suggest.h"

namespace sluice::launch {
namespace {

void AddFlag(const Flag& flag, CLI::App& app) {
  CLI::Option* option = nullptr;
  if (auto* const* target = std::get_if<bool*>(&flag.target)) {
    option = app.add_flag(flag.name, **target, flag.help);
  } else if (auto* const* target = std::get_if<int64_t*>(&flag.target)) {
    option = app.add_option(flag.name, **target, flag.help);
  } else if (auto* const* target = std::get_if<double*>(&flag.target)) {
    option = app.add_option(flag.name, **target, flag.help);
  } else if (auto* const* target = std::get_if<std::string*>(&flag.target)) {
    option = app.add_option(flag.name, **target, flag.help);
  } else {
    option = app.add_option(flag.name, *std::get<std::vector<std::string>*>(flag.target));
    if (!flag.is_positional()) option->allow_extra_args(false);  // one value an occurrence
  }
  if (flag.required) option->required();
}

// Two columns, the right one wrapped.
std::string Row(const std::string& left, const std::string& right) {
  constexpr size_t kLeft = 30;
  constexpr size_t kRight = 68;
  std::string text = absl::StrCat("  ", left);
  text += text.size() + 2 > kLeft ? "\n" + std::string(kLeft, ' ')
                                  : std::string(kLeft - text.size(), ' ');
  size_t column = 0;
  for (absl::string_view word : absl::StrSplit(right, ' ')) {
    if (column > 0 && column + 1 + word.size() > kRight) {
      absl::StrAppend(&text, "\n", std::string(kLeft, ' '));
      column = 0;
    }
    absl::StrAppend(&text, column > 0 ? " " : "", word);
    column += word.size() + (column > 0 ? 1 : 0);
  }
  return text + "\n";
}

std::string Usage(const FlagSet& flags) {
  std::string usage;
  for (const Flag& flag : flags) {
    const bool is_list = std::holds_alternative<std::vector<std::string>*>(flag.target);
    std::string part = flag.name;
    if (!flag.is_positional() && !flag.value.empty()) absl::StrAppend(&part, " ", flag.value);
    if (!flag.required) part = absl::StrCat("[", part, "]");
    absl::StrAppend(&usage, " ", part, is_list ? "..." : "");
  }
  return usage;
}

}  // namespace

absl::Status ParseFlags(Command& command, const std::vector<std::string>& arguments) {
  const FlagSet flags = command.flags();
  const std::string see = absl::StrCat(" (see `sluice help ", command.name(), "`)");
  std::vector<std::string> unexpected;
  try {
    CLI::App app;
    app.set_help_flag();     // the caller answers --help
    app.allow_extras(true);  // reported below with a suggestion
    for (const Flag& flag : flags) AddFlag(flag, app);
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    unexpected = app.remaining();
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(command.name(), ": ", absl::StrReplaceAll(error.what(), {{"\n", " "}}), see));
  }
  if (unexpected.empty()) return absl::OkStatus();
  std::vector<std::string> names;
  for (const Flag& flag : flags) {
    if (!flag.is_positional()) names.push_back(flag.name);
  }
  const auto unknown = std::find_if(unexpected.begin(), unexpected.end(),
                                    [](const std::string& word) { return word[0] == '-'; });
  if (unknown == unexpected.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(command.name(), ": '", unexpected[0], "' is one argument too many", see));
  }
  const std::string name = unknown->substr(0, unknown->find('='));
  return absl::InvalidArgumentError(absl::StrCat(command.name(), ": there is no flag '", name, "'",
                                                 DidYouMean(name, names), see));
}

std::string HelpText(const std::vector<std::unique_ptr<Command>>& commands) {
  std::string text =
      "Sluice trains Mixture-of-Experts language models over many ranks.\n\n"
      "usage: sluice COMMAND [--preset NAME | --config FILE.textproto] [--set "
      "path.to.field=value]..."
      "\n\ncommands:\n";
  for (const auto& command : commands) {
    absl::StrAppend(
        &text, Row(command->name(),
                   absl::StrCat(command->summary(), command->runs_on_ranks() ? " (ranks)" : "")));
  }
  absl::StrAppend(
      &text, Row("help [COMMAND]", "this text, or a command's flags and examples"),
      Row("--version", "the version of this program"),
      "\nCommands marked (ranks) also run under mpirun -np N or srun; alone they are one "
      "rank.\n");
  return text;
}

std::string HelpText(Command& command) {
  const FlagSet flags = command.flags();
  std::string text = absl::StrCat("sluice ", command.name(), ": ", command.summary(),
                                  "\n\nusage: ", "sluice ", command.name(), Usage(flags), "\n\n");
  for (const Flag& flag : flags) {
    const bool takes_value = !flag.is_positional() && !flag.value.empty();
    absl::StrAppend(
        &text, Row(takes_value ? absl::StrCat(flag.name, " ", flag.value) : flag.name, flag.help));
  }
  absl::StrAppend(&text, "\n", command.description(), "\n");
  return text;
}

}  // namespace sluice::launch
