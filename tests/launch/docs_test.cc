// The commands that the documents show really run: every fenced block marked ```sh tested, line by
// line, in a folder of its own that looks like the repository's. Runs are shrunk (a small model, a
// hundredth of the steps) by a wrapper around the program; everything else is as written.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/data/data_test_util.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::launch {
namespace {

namespace fs = std::filesystem;

struct Block {
  int line = 0;  // of its first command
  std::string text;
};

std::vector<Block> TestedBlocks(const std::string& document) {
  std::vector<Block> blocks;
  std::istringstream lines(ReadAll(testing::SourcePath(document)));
  bool inside = false;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line == "```sh tested") {
      blocks.push_back({.line = number + 1, .text = ""});
      inside = true;
    } else if (line == "```") {
      inside = false;
    } else if (inside) {
      blocks.back().text += line + "\n";
    }
  }
  return blocks;
}

// train takes a model of a few thousand parameters; `steps=100` becomes `steps=1`.
constexpr char kWrapper[] = R"(#!/usr/bin/env bash
arguments=()
for argument in "$@"; do
  case $argument in train.steps=*00) argument=${argument%00} ;; esac
  arguments+=("$argument")
done
if [[ $1 == train && " $* " != *" --dry-run "* && " $* " != *" --config "* ]]; then
  for edit in vocab_size=4096 hidden_size=32 intermediate_size=32 moe_intermediate_size=16 num_hidden_layers=2 \
    num_attention_heads=2 num_key_value_heads=2 q_lora_rank=16 kv_lora_rank=16; do
    arguments+=(--set "model.$edit")
  done
  arguments+=(--set train.sequence_length=32 --set eval.batches=1 --set compute.threads=1)
  [[ " $* " == *train.steps=* ]] || arguments+=(--set train.steps=1)
fi
exec PROGRAM "${arguments[@]}"
)";

// A folder that looks like the repository's, with that program in build/.
void WriteWrapper(const std::string& dir) {
  fs::create_directories(dir + "/build");
  fs::create_symlink(testing::SourcePath("launch"), dir + "/launch");
  std::string wrapper = kWrapper;
  wrapper.replace(wrapper.find("PROGRAM"), 7, SLUICE_BINARY);
  std::ofstream(dir + "/build/sluice") << wrapper;
  fs::permissions(dir + "/build/sluice", fs::perms::owner_all);
}

// What docs/fine-tuning.md begins with: a released model (tests/golden has one in small) with a
// tokenizer of letters and line ends, and the task's files.
void WriteReleasedModel(const std::string& dir) {
  const fs::path golden = testing::SourcePath("tests/golden/huggingface/deepseek_v2_lite");
  const fs::path model = dir + "/DeepSeek-V2-Lite";
  fs::create_directories(model);
  fs::copy_file(golden / "config.json", model / "config.json");
  std::ofstream(model / "model.safetensors")
      << data::ZstdDecompress(ReadAll(golden / "model.safetensors.zst"));
  nlohmann::json vocab = {{" ", 0}, {"\n", 27}, {"</s>", 28}};
  for (int i = 0; i < 26; ++i) vocab[std::string(1, static_cast<char>('a' + i))] = i + 1;
  const nlohmann::json end = {{"id", 28}, {"content", "</s>"}, {"special", true}};
  const nlohmann::json bpe = {
      {"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}};
  std::ofstream(model / "tokenizer.json")
      << nlohmann::json{{"added_tokens", {end}}, {"decoder", {{"type", "Fuse"}}}, {"model", bpe}};
  std::ofstream(model / "tokenizer_config.json") << R"({"eos_token": "</s>"})";
  for (const char* name : {"train.jsonl", "held_out.jsonl"}) {
    std::ofstream lines(dir + "/" + name);
    for (int i = 0; i < 300; ++i)
      lines << R"({"prompt": "where do we meet mr knightley", "completion": " emma"})"
            << "\n";
  }
  std::ofstream(dir + "/questions.jsonl")
      << R"({"question": "where is emma", "choices": ["here", "there"], "answer": 0})"
      << "\n";
}

class Documents : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    dir_ = TestFolder();
    WriteWrapper(dir_);
    fs::create_directories(dir_ + "/data/mine");
    // What the documents take to be in /data; enough text for a vocabulary of 4096.
    const std::string novel = ReadAll(testing::SourcePath("data/samples/persuasion.txt"));
    std::ofstream(dir_ + "/data/mine/a.txt") << novel.substr(0, 300'000);
    std::ofstream(dir_ + "/data/held_out.txt") << novel.substr(300'000, 20'000);
    std::ofstream(dir_ + "/other.txt") << novel.substr(320'000, 10'000);
    std::ofstream(dir_ + "/lines.jsonl") << "{\"text\": \"It was\"}\n";
    if (GetParam() == std::string("docs/fine-tuning.md")) WriteReleasedModel(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::string dir_;
};

TEST_P(Documents, CommandsRun) {
  const std::vector<Block> blocks = TestedBlocks(GetParam());
  ASSERT_FALSE(blocks.empty()) << GetParam() << ": found no block marked ```sh tested";
  for (const Block& block : blocks) {
    std::string script = block.text;
    for (size_t at = 0; (at = script.find("/data/", at)) != std::string::npos; at += 6) {
      const bool absolute = at == 0 || script[at - 1] == ' ' || script[at - 1] == '=';
      if (absolute) script.insert(at, dir_), at += dir_.size();
    }
    std::ofstream(dir_ + "/block.sh") << "set -e -o pipefail\ncd " << dir_ << "\n" << script;
    const Outcome outcome = RunShell("bash -x " + dir_ + "/block.sh");
    ASSERT_EQ(outcome.exit_code, 0)
        << GetParam() << ":" << block.line << ": the block fails\n"
        << outcome.err.substr(outcome.err.size() > 2000 ? outcome.err.size() - 2000 : 0);
  }
}

// The text between the first line of docs/plan.md that begins with `head` and the fence after it.
std::string FencedFrom(const std::string& head) {
  std::istringstream lines(ReadAll(testing::SourcePath("docs/plan.md")));
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    if (text.empty() && line.rfind(head, 0) != 0) continue;
    if (line == "```") return text;
    text += line + "\n";
  }
  return "docs/plan.md: no fenced line begins with " + head;
}

std::vector<std::string> WordsOf(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// The worked example of docs/fine-tuning.md, on its 4 ranks: pretrain, export, import,
// instructions, LoRA, the table, weights to be served.
TEST(FinetuneExample, RunsFromTextToServedWeights) {
  const std::string dir = TestFolder();
  WriteWrapper(dir);
  fs::create_symlink(testing::SourcePath("data"), dir + "/data");
  const Outcome run = RunShell("cd " + dir + " && launch/examples/finetune --steps 100 --epochs 4");
  ASSERT_EQ(run.exit_code, 0) << run.err.substr(run.err.size() > 2000 ? run.err.size() - 2000 : 0);
  std::vector<std::vector<std::string>> table;
  const size_t begin = run.out.find("Questions in words that");
  ASSERT_NE(begin, std::string::npos) << run.out;
  std::istringstream lines(run.out.substr(begin));
  for (std::string line; std::getline(lines, line);) table.push_back(WordsOf(line));
  ASSERT_GE(table.size(), 9u) << run.out;
  ASSERT_EQ(table[2].size(), 8u) << run.out;      // "nats per token of the answer" before after
  EXPECT_NEAR(std::stod(table[2][6]), 8.3, 0.3);  // as good as chance with 4096 tokens
  EXPECT_LT(std::stod(table[2][7]), std::stod(table[2][6]) - 0.1);
  ASSERT_EQ(table[3].size(), 7u) << run.out;  // "accuracy, one of five novels" before after
  EXPECT_EQ(table[4][0], "Question:");
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json", "certificate.txt"})
    EXPECT_TRUE(fs::exists(dir + "/runs/finetune/tuned-hf/" + file)) << file;
  fs::remove_all(dir);
}

TEST(PlanDocument, TheFigureLineByLineIsWhatTheProgramPrints) {
  const Outcome plan = RunSluice(
      "plan --preset deepseek_v3 --cluster h800_2048 --tokens 14.8e12 --explain "
      "--set mesh.pipe=16 --set mesh.expert=64 --set schedule=dualpipe "
      "--set compute.precision=FP8 --set compute.recompute=norm,mla_up,swiglu");
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_EQ(FencedFrom("pipe 16 data 128"), plan.out);
}

TEST(PlanDocument, PublishedRunsAreWhatTheProgramPrints) {
  const Outcome plan = RunSluice("plan --published");
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_EQ(FencedFrom("# step seconds; one set"), plan.out);
}

// The document leaves columns out, and writes "all" for every kind of recompute: what it has stands
// in the program's line, in this order.
TEST(PlanDocument, TheSearchIsWhatTheProgramPrints) {
  const Outcome plan =
      RunSluice("plan --preset deepseek_v3 --cluster h800_2048 --tokens 14.8e12 --top 6");
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  std::vector<std::vector<std::string>> printed;
  std::istringstream out(plan.out);
  for (std::string line; std::getline(out, line);) printed.push_back(WordsOf(line));
  std::istringstream shown(FencedFrom("1      8  256   64"));
  int lines = 0;
  for (std::string line; std::getline(shown, line);) {
    std::vector<std::string> words = WordsOf(line);
    if (words.empty() || line == "why not:") continue;
    const auto is_spelled_otherwise = [](const std::string& word) {
      return word == "all" || word == "GB" || word == "|";
    };
    words.erase(std::remove_if(words.begin(), words.end(), is_spelled_otherwise), words.end());
    const bool found = std::any_of(printed.begin(), printed.end(), [&](const auto& whole) {
      size_t next = 0;
      for (const std::string& word : whole) next += next < words.size() && word == words[next];
      return !whole.empty() && whole[0] == words[0] && next == words.size();
    });
    EXPECT_TRUE(found) << line << "\nis not in\n" << plan.out;
    ++lines;
  }
  EXPECT_EQ(lines, 6 + 5);
  EXPECT_NE(ReadAll(testing::SourcePath("docs/plan.md")).find("7,272 layouts are tried"),
            std::string::npos);
  EXPECT_NE(plan.out.find("7272 layouts tried, 25 fit"), std::string::npos) << plan.out;
}

INSTANTIATE_TEST_SUITE_P(All, Documents,
                         ::testing::Values("README.md", "docs/running.md", "docs/fine-tuning.md"),
                         [](const auto& info) {
                           std::string name = fs::path(info.param).stem().string();
                           std::erase_if(name, [](char c) { return c == '-'; });
                           return name;
                         });

}  // namespace
}  // namespace sluice::launch
