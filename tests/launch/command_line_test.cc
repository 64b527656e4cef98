// The program from outside: exit codes, what goes to stdout and what to stderr.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/commands/commands.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
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
  EXPECT_GT(json["disk"]["free_bytes"].get<int64_t>(), 0);
  EXPECT_FALSE(json["simd"].get<std::string>().empty());
  for (const char* what : {"mpi", "cuda_toolkit", "version"}) EXPECT_TRUE(json.contains(what));
  EXPECT_EQ(json["ok"].get<bool>(), outcome.exit_code == 0) << outcome.err;
}

TEST(CommandLine, InspectNamesWhatItDidNotFind) {
  const Outcome outcome = RunSluice("inspect verify /nowhere/run");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("/nowhere/run"));
  EXPECT_THAT(RunSluice("inspect digst x").err, HasSubstr("did you mean 'digest'?"));
  EXPECT_THAT(RunSluice("inspect diff x").err, HasSubstr("found 1 checkpoints, wanted 2"));
}

TEST(CommandLine, AWrongConfigurationIsOneSentenceHoweverManyRanks) {
  const auto expect = [](const std::string& arguments, const std::string& part) {
    const Outcome alone = RunSluice("train " + arguments);
    EXPECT_EQ(alone.exit_code, 1) << arguments;
    EXPECT_EQ(alone.out, "") << arguments;
    EXPECT_THAT(alone.err, HasSubstr(part));
    EXPECT_EQ(std::count(alone.err.begin(), alone.err.end(), '\n'), 1) << alone.err;
  };
  expect("", "wanted one of --preset");
  expect("--preset lapotp", "did you mean 'laptop'?");
  expect("--config /nowhere/x.textproto", "/nowhere/x.textproto");
  expect("--preset tiny --set train.stesp=3", "did you mean 'train.steps'?");
  expect("--preset tiny --set train.steps=three", "a whole number");
  expect("--preset tiny --set mesh.pipe=2 --set mesh.data=3", "mesh");
  expect("--preset tiny --set compute.precision=FP9", "compute.precision");

  const Outcome three =
      RunShell(testing::SourcePath("launch/run -np 3 ") + SLUICE_BINARY " train --preset lapotp");
  EXPECT_NE(three.exit_code, 0);
  const size_t first = three.err.find("sluice: ");
  ASSERT_NE(first, std::string::npos) << three.err;
  EXPECT_EQ(three.err.find("sluice: ", first + 1), std::string::npos) << three.err;
}

TEST(CommandLine, DryRunDescribesAMeshThisMachineHasNot) {
  const Outcome outcome = RunSluice(
      "train --preset deepseek_v3 --dry-run --set mesh.pipe=16 --set mesh.data=128 "
      "--set mesh.expert=64");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("parameters 671026419200 (active per token "));
  EXPECT_THAT(outcome.out,
              HasSubstr("mesh pipe 16 x data 128 (expert_data 2 x expert 64), schedule 1f1b"));
  EXPECT_THAT(outcome.out, HasSubstr("state of a rank, MiB"));
}

// Dense layers first, embedding and head apart from layers, both ends on ranks 0 and 3.
TEST(CommandLine, DryRunPrintsTheStageMap) {
  const std::string run =
      "train --preset deepseek_v3 --dry-run --set mesh.pipe=4 --set train.global_batch=15360 "
      "--set mesh.data=8 --set mesh.expert=8 --set schedule=dualpipe ";
  const Outcome by_hand = RunSluice(run + "--set stage_layers=0,30,31,0");
  EXPECT_EQ(by_hand.exit_code, 0) << by_hand.err;
  for (const char* line :
       {"0  0, 3    embed ", "1  1, 2    0-29 ", "2  2, 1    30-60 ", "3  3, 0    head "}) {
    EXPECT_THAT(by_hand.out, HasSubstr(line));
  }
  const Outcome balanced = RunSluice(run);
  EXPECT_THAT(balanced.out, HasSubstr("the slowest rank takes 1.0"));
}

TEST(CommandLine, ACheckpointThatIsNotThereIsNamed) {
  const std::string where = " --checkpoint /nowhere/run";
  for (const std::string command : {"eval", "generate", "score --json"}) {
    const Outcome outcome = RunSluice(command + where, "{\"ids\": [1, 2]}\n");
    EXPECT_EQ(outcome.exit_code, 1) << command;
    EXPECT_EQ(outcome.out, "") << command;
    EXPECT_THAT(outcome.err, HasSubstr("/nowhere/run"));
  }
  EXPECT_THAT(RunSluice("score" + where, "{\"ids\": [1, 2]}\n{}\n").err,
              HasSubstr("line 2 of stdin"));
  EXPECT_THAT(RunSluice("score" + where).err, HasSubstr("nothing on stdin"));
  EXPECT_THAT(RunSluice("generate --top-p 0" + where).err, HasSubstr("--top-p"));
}

// More ranks than cores are allowed, and none is bound to a core; how ranks wait is left to sluice.
TEST(LaunchRun, SuitsMachinesWithFewCores) {
  const Outcome outcome =
      RunShell(testing::SourcePath("launch/run -np 2 sh -c 'env; grep Cpus_allowed_list "
                                   "/proc/self/status'"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* setting :
       {"OMPI_MCA_rmaps_base_oversubscribe=1", "OMPI_MCA_hwloc_base_binding_policy=none",
        "OMPI_COMM_WORLD_SIZE=2"}) {
    EXPECT_THAT(outcome.out, HasSubstr(setting));
  }
  EXPECT_THAT(outcome.out, Not(HasSubstr("OMPI_MCA_mpi_yield_when_idle")));
  const Outcome here = RunShell("grep Cpus_allowed_list /proc/self/status");
  EXPECT_THAT(outcome.out, HasSubstr(here.out));
  const Outcome mine =
      RunShell("OMPI_MCA_mpi_yield_when_idle=0 " + testing::SourcePath("launch/run -np 1 env"));
  EXPECT_THAT(mine.out, HasSubstr("OMPI_MCA_mpi_yield_when_idle=0"));
}

// A vocabulary trained on a small text, in a folder of its own.
class TokenizeCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = TestFolder();
    std::string text;
    for (int i = 0; i < 50; ++i) text += "It was the best of times, it was the worst of times.\n";
    std::ofstream(dir_ + "/a.txt") << text;
    const Outcome outcome = RunSluice("tokenize --vocab-size 280 --tokenizer " + Tokenizer() +
                                      " --output " + dir_ + "/a.tokens --json " + dir_ + "/a.txt");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    summary_ = nlohmann::json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string Tokenizer() const { return dir_ + "/tokenizer.json"; }

  std::string dir_;
  nlohmann::json summary_;
};

TEST_F(TokenizeCommand, ReportsWhatItWrote) {
  ASSERT_TRUE(summary_.is_object());
  EXPECT_EQ(summary_["tokens"]["text_bytes"], 50 * 53);
  EXPECT_EQ(summary_["tokens"]["documents"], 1);
  EXPECT_LT(summary_["tokens"]["tokens"], 50 * 53);
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/a.tokens"));
  const Outcome text = RunSluice("tokenize --tokenizer " + Tokenizer() + " --output " + dir_ +
                                 "/b.tokens " + dir_ + "/a.txt");
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("tokens: " + dir_ + "/b.tokens: 1 documents, "));
  EXPECT_THAT(text.out, HasSubstr(" MB/s"));
}

// A text of six letters has few pairs: the vocabulary ends there, and its size is told.
TEST_F(TokenizeCommand, AVocabularySmallerThanAskedForIsTold) {
  std::ofstream(dir_ + "/short.txt") << "banana banana\n";
  const std::string command = "tokenize --vocab-size 5000 " + dir_ + "/short.txt --tokenizer ";
  const Outcome json = RunSluice(command + dir_ + "/1.json --json");
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const auto size = nlohmann::json::parse(json.out)["vocabulary"]["size"];
  EXPECT_GT(size, 257);
  EXPECT_LT(size, 280);
  EXPECT_EQ(summary_["vocabulary"]["size"], 280);
  const Outcome text = RunSluice(command + dir_ + "/2.json");
  EXPECT_THAT(text.out, HasSubstr("vocabulary: " + size.dump() + " tokens of the 5000 asked for"));
}

TEST_F(TokenizeCommand, IdsAndBackGiveTheText) {
  // One text a line, blank lines passed over, no line end needed at the end.
  const std::string texts = R"({"text": "the worst of times"})"
                            "\n\n"
                            R"({"text": ""})"
                            "\n"
                            R"({"text": "ex\u00e9 <|endoftext|>"})";
  const Outcome ids = RunSluice("tokenize --ids --tokenizer " + Tokenizer(), texts);
  ASSERT_EQ(ids.exit_code, 0) << ids.err;
  EXPECT_THAT(ids.out, HasSubstr("{\"ids\": []}\n"));
  const Outcome back = RunSluice("tokenize --decode --tokenizer " + Tokenizer(), ids.out);
  EXPECT_EQ(back.out,
            "{\"text\": \"the worst of times\"}\n{\"text\": \"\"}\n"
            "{\"text\": \"ex\xc3\xa9 <|endoftext|>\"}\n");
  const Outcome skipped =
      RunSluice("tokenize --decode --skip-special-tokens --tokenizer " + Tokenizer(), ids.out);
  EXPECT_THAT(skipped.out, HasSubstr("{\"text\": \"ex\xc3\xa9 \"}\n"));
  const auto end_id = [&](const std::string& flag) {
    return RunSluice("tokenize --ids --tokenizer " + Tokenizer() + flag,
                     R"({"text": "<|endoftext|>"})")
        .out;
  };
  EXPECT_EQ(end_id(""), "{\"ids\": [0]}\n");
  // BOS and EOS only where asked for.
  nlohmann::json json = nlohmann::json::parse(ReadAll(Tokenizer()));
  json["post_processor"] = nlohmann::json::parse(R"({
    "type": "TemplateProcessing", "pair": [],
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
               {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
  })");
  std::ofstream(Tokenizer()) << json.dump();
  EXPECT_EQ(end_id(""), "{\"ids\": [0]}\n");
  EXPECT_EQ(end_id(" --add-special-tokens"), "{\"ids\": [0, 0]}\n");
  EXPECT_THAT(end_id(" --plain"), Not(HasSubstr("[0]")));
  // Files likewise: the text's own end, and that of the document.
  std::ofstream(dir_ + "/end.txt") << "<|endoftext|>";
  const auto tokens_of_file = [&](const std::string& flag) {
    const Outcome outcome = RunSluice("tokenize --json --tokenizer " + Tokenizer() + flag +
                                      " --output " + dir_ + "/end.tokens " + dir_ + "/end.txt");
    return nlohmann::json::parse(outcome.out, nullptr, false)["tokens"]["tokens"].get<int>();
  };
  EXPECT_EQ(tokens_of_file(""), 2);
  EXPECT_GT(tokens_of_file(" --plain"), 2);
}

// E2 28 A1: a lead byte without its tail, a bracket, a tail without its lead; two places.
TEST_F(TokenizeCommand, WhatIsNotUtf8IsReplacedCountedAndWarnedOfOrRefused) {
  const std::string bad = "\xe2(\xa1", line = "{\"text\": \"a" + bad + "z\"}\n",
                    tokenize = "tokenize --tokenizer " + Tokenizer();
  const std::string good = "{\"text\": \"whole\"}\n";
  const Outcome ids = RunSluice(tokenize + " --ids", good + line);
  ASSERT_EQ(ids.exit_code, 0) << ids.err;
  EXPECT_EQ(ids.err, "sluice: warning: 2 places were not UTF-8 and became U+FFFD\n");
  EXPECT_EQ(RunSluice(tokenize + " --decode", ids.out).out,
            good + "{\"text\": \"a\xef\xbf\xbd(\xef\xbf\xbdz\"}\n");
  EXPECT_EQ(RunSluice(tokenize + " --ids", good).err, "");
  const Outcome strict = RunSluice(tokenize + " --ids --strict", good + line);
  EXPECT_EQ(strict.exit_code, 1);
  EXPECT_EQ(strict.out, RunSluice(tokenize + " --ids", good).out);
  EXPECT_EQ(strict.err,
            "sluice: tokenize: line 2 of stdin: the line has bytes that are not UTF-8\n");
  // The same of conversations, and of files.
  const std::string chat = "{\"prompt\": \"a\", \"completion\": \"" + bad + "\"}\n";
  EXPECT_EQ(RunSluice(tokenize + " --ids --chat raw", chat).err, ids.err);
  EXPECT_EQ(RunSluice(tokenize + " --ids --chat raw --strict", chat).exit_code, 1);
  std::ofstream(dir_ + "/bad.txt") << "a" << bad;
  std::ofstream(dir_ + "/bad.jsonl") << chat;
  const std::string to = " --output " + dir_ + "/bad.tokens ";
  for (const std::string input : {"bad.txt", "--chat raw bad.jsonl"}) {
    const size_t name = input.rfind("bad");
    const std::string from = input.substr(0, name) + dir_ + "/" + input.substr(name);
    EXPECT_THAT(RunSluice(tokenize + to + from).out,
                HasSubstr("; 2 places were not UTF-8 and became U+FFFD"));
    const Outcome refused = RunSluice(tokenize + to + "--strict " + from);
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_THAT(refused.err, HasSubstr("bytes that are not UTF-8"));
  }
  // A run that makes its tokens itself says so, too.
  const Outcome run =
      RunSluice("train --preset tiny --set train.steps=1 --set run.dir=" + dir_ +
                "/run --set data.train=" + dir_ + "/bad.txt --set data.validation=" + dir_ +
                "/a.txt --set data.tokenizer=" + Tokenizer());
  EXPECT_THAT(run.out + run.err, HasSubstr("warning: " + dir_ + "/bad.txt: 2 places were not"));
}

TEST_F(TokenizeCommand, ConversationsBecomeTokensAndMasks) {
  const std::string line = R"({"prompt": "the worst", "completion": " of times"})";
  const Outcome ids = RunSluice("tokenize --ids --chat raw --tokenizer " + Tokenizer(), line);
  ASSERT_EQ(ids.exit_code, 0) << ids.err;
  EXPECT_THAT(ids.out, HasSubstr("\"targets\": [0, "));
  EXPECT_THAT(ids.out, HasSubstr(", 1]}"));
  std::ofstream(dir_ + "/chats.jsonl") << line << "\n" << line << "\n";
  const Outcome file = RunSluice("tokenize --chat raw --json --tokenizer " + Tokenizer() +
                                 " --output " + dir_ + "/sft.tokens " + dir_ + "/chats.jsonl");
  ASSERT_EQ(file.exit_code, 0) << file.err;
  EXPECT_THAT(file.out, HasSubstr("\"conversations\""));
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/sft.tokens.mask"));
  const Outcome missing = RunSluice("tokenize --ids --chat qwen3 --tokenizer " + Tokenizer(), line);
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("qwen3 needs the token '<|im_start|>'"));
}

TEST_F(TokenizeCommand, MistakesNameFlagOrLineAndLoseNothing) {
  const auto expect = [&](const std::string& arguments, const std::string& input,
                          const std::string& part) {
    const Outcome outcome =
        RunSluice("tokenize --tokenizer " + Tokenizer() + " " + arguments, input);
    EXPECT_EQ(outcome.exit_code, 1) << arguments;
    EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  };
  const std::string before = ReadAll(Tokenizer());
  expect("--vocab-size 300 " + dir_ + "/a.txt", "", "would overwrite");
  EXPECT_EQ(ReadAll(Tokenizer()), before);
  expect("--output " + dir_ + "/b.tokens " + dir_ + "/none.txt", "", "none.txt");
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/b.tokens"));
  expect("--output " + dir_ + "/b.tokens", "", "no INPUT");
  expect(dir_ + "/a.txt", "", "wanted --output");
  expect("--ids --decode", "", "both given");
  expect("--ids " + dir_ + "/a.txt", "", "read stdin");
  expect("--ids", "{\"text\": \"a\"}\n{\"text\": 3}\n", "line 2 of stdin");
  expect("--ids", "{\"ids\": [1]}", "wanted {\"text\": ...}");
  expect("--decode", "{\"ids\": [123456]}", "line 1 of stdin");
  const Outcome missing = RunSluice("tokenize --ids --tokenizer /nowhere/tokenizer.json");
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/nowhere/tokenizer.json"));
}

}  // namespace
}  // namespace sluice::launch
