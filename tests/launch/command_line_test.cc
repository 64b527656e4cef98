// The program from outside: exit codes, what goes to stdout and what to stderr.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/commands/commands.h"
#include "tests/launch/run_program.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(CommandLine, HelpAndVersionAnswerOnStdout) {
  for (const std::string words : {"help", "--help", "-h", "--version", "version"}) {
    const Outcome outcome = RunSluice(words);
    EXPECT_EQ(outcome.exit_code, 0) << words;
    EXPECT_THAT(outcome.err, "") << words;
    EXPECT_FALSE(outcome.out.empty()) << words;
  }
  EXPECT_THAT(RunSluice("--version").out, StartsWith("sluice 0."));
}

TEST(CommandLine, EveryCommandIsListedAndHasHelp) {
  const std::string help = RunSluice("help").out;
  for (const auto& command : AllCommands()) {
    EXPECT_THAT(help, HasSubstr("\n  " + command->name() + " "));
    const Outcome by_help = RunSluice("help " + command->name());
    EXPECT_EQ(by_help.exit_code, 0);
    EXPECT_THAT(by_help.out, HasSubstr("usage: sluice " + command->name()));
    EXPECT_EQ(RunSluice(command->name() + " --help").out, by_help.out);
  }
}

TEST(CommandLine, AMistakeIsOneSentenceOnStderrAndCodeTwo) {
  const auto expect = [](const std::string& arguments, const std::string& part) {
    const Outcome outcome = RunSluice(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_THAT(outcome.err, StartsWith("sluice: "));
    EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  };
  expect("docter", "did you mean 'doctor'?");
  expect("help docter", "did you mean 'doctor'?");
  expect("doctor --jsno", "did you mean '--json'?");
  expect("doctor now", "'now' is one argument too many");
  expect("inspect", "ACTION");
}

TEST(CommandLine, NothingAtAllPrintsTheHelpAndFails) {
  const Outcome outcome = RunSluice("");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(outcome.err, RunSluice("help").out);
}

TEST(CommandLine, DoctorSpeaksJson) {
  const Outcome outcome = RunSluice("doctor --json");
  const auto json = nlohmann::json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(json.is_object()) << outcome.out;
  EXPECT_GE(json["cores"].get<int>(), 1);
  EXPECT_GT(json["memory"]["total_bytes"].get<int64_t>(), 0);
  EXPECT_EQ(json["ok"].get<bool>(), outcome.exit_code == 0) << outcome.err;
}

TEST(CommandLine, InspectNamesWhatItDidNotFind) {
  const Outcome outcome = RunSluice("inspect verify /nowhere/run");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("/nowhere/run"));
  EXPECT_THAT(RunSluice("inspect digst x").err, HasSubstr("did you mean 'digest'?"));
  EXPECT_THAT(RunSluice("inspect diff x").err, HasSubstr("found 1 checkpoints, wanted 2"));
}

}  // namespace
}  // namespace sluice::launch
