// Fine-tuning as a user runs it: pretrain, then conversations by LoRA, adapters out, experts chosen
// and trained.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launch/tiny_run.h"

namespace sluice::launch {
namespace {

using ::testing::HasSubstr;

class Finetune : public TinyRunTest {
 protected:
  void SetUp() override {
    TinyRunTest::SetUp();
    std::ofstream lines(dir_ + "/sft.jsonl");
    for (int i = 0; i < 48; ++i) {
      lines << "{\"prompt\": \"What follows " << i << "?\", \"completion\": \" The number " << i + 1
            << ".\"}\n";
    }
    lines.close();
    ASSERT_EQ(Train("base", 1, {"train.steps=10"}).exit_code, 0);
  }
  // A file of questions like those in sft.jsonl.
  std::string Questions() const {
    std::ofstream lines(dir_ + "/questions.jsonl");
    for (int i = 0; i < 13; ++i) {
      const std::string wrong = "lucky", right = "The number " + std::to_string(i + 1) + ".";
      const bool first = i % 3 == 0;
      lines << nlohmann::json{{"question", "What follows " + std::to_string(i) + "?"},
                              {"choices", {first ? right : wrong, first ? wrong : right}},
                              {"answer", first ? 0 : 1}}
                   .dump()
            << "\n";
    }
    return dir_ + "/questions.jsonl";
  }
  std::vector<std::string> SftEdits(const std::vector<std::string>& more) const {
    std::vector<std::string> edits = {"run.init_from=" + RunDir("base"),
                                      "data.tokenizer=" + RunDir("base") + "/tokenizer.json",
                                      "data.sft=" + dir_ + "/sft.jsonl",
                                      "data.sft_validation=" + dir_ + "/sft.jsonl",
                                      "train.lr.peak=0.01",
                                      "eval.every=1000"};
    edits.insert(edits.end(), more.begin(), more.end());
    return edits;
  }
};

TEST_F(Finetune, LoraOnFourRanksLearnsResumesAndIsExported) {
  const std::vector<std::string> edits =
      SftEdits({"finetune.mode=lora", "finetune.lora.rank=4", "finetune.lora.dropout=0.1",
                "train.epochs=8", "train.steps=5"});
  const Outcome run = Train("lora", 4, edits);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("weights from " + RunDir("base")));
  EXPECT_THAT(run.out, HasSubstr("data.sft: 48 conversations packed into "));
  EXPECT_THAT(run.out, HasSubstr("8 epochs of "));
  const auto rows = Rows("lora");
  EXPECT_GT(rows.size(), 5u);  // the epochs count, not train.steps
  std::ifstream metrics(RunDir("lora") + "/metrics.jsonl");
  std::string line;
  std::getline(metrics, line);
  const double first = nlohmann::json::parse(line)["loss"];
  const Outcome eval = RunSluice("eval --json --checkpoint " + RunDir("lora"));
  ASSERT_EQ(eval.exit_code, 0) << eval.err;
  EXPECT_LT(nlohmann::json::parse(eval.out)["loss"].get<double>(), first - 0.2);

  const Outcome chosen =
      RunSluice("eval --json --checkpoint " + RunDir("lora") + " --multiple-choice " + Questions());
  ASSERT_EQ(chosen.exit_code, 0) << chosen.err;
  EXPECT_EQ(nlohmann::json::parse(chosen.out)["normalized_accuracy"], 1.0);

  // The template raw has no turns: the answer is what follows the prompt.
  const std::string generate = "generate --checkpoint " + RunDir("lora") +
                               " --tokens 8 --temperature 0 --prompt 'What follows 3?'";
  const Outcome text = RunSluice(generate), answer = RunSluice(generate + " --chat raw");
  ASSERT_EQ(answer.exit_code, 0) << answer.err;
  EXPECT_EQ("What follows 3?" + answer.out, text.out);
  EXPECT_GT(answer.out.size(), 2u);
  const Outcome lacks = RunSluice(generate + " --chat moonlight");
  EXPECT_EQ(lacks.exit_code, 1);
  EXPECT_THAT(lacks.err, HasSubstr("moonlight needs the token '<|im_system|>'"));

  // Another layout continues; it has nothing left to do.
  const Outcome again = Train("lora", 1, edits);
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("this run is finished"));
  EXPECT_EQ(Rows("lora"), rows);
  const Outcome other = Train("lora", 1, SftEdits({"finetune.mode=lora", "finetune.lora.rank=8"}));
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_THAT(other.err, HasSubstr("finetune.lora.rank: found 8, wanted 4"));

  const std::string to = dir_ + "/adapter";
  const Outcome adapter =
      RunSluice("adapter --base some/model --checkpoint " + RunDir("lora") + " --to " + to);
  ASSERT_EQ(adapter.exit_code, 0) << adapter.err;
  // 2 layers: attention 4 modules, 4 experts of 3; multi-token prediction has the same of one.
  EXPECT_THAT(adapter.out, HasSubstr("adapters of 32 modules"));
  EXPECT_THAT(adapter.out, HasSubstr("left out: 16 modules"));
  const auto config = nlohmann::json::parse(ReadAll(to + "/adapter_config.json"));
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"], 8.0);
  EXPECT_THAT(ReadAll(to + "/adapter_model.safetensors"),
              HasSubstr("base_model.model.model.layers.1.mlp.experts.3.up_proj.lora_B.weight"));

  // Merged weights, exactly: the run's own log-probabilities come back.
  const std::string hf = dir_ + "/hf";
  ASSERT_EQ(RunSluice("export --dtype fp32 --from " + RunDir("lora") + " --to " + hf).exit_code, 0);
  // Programs that serve it stop at this run's own token.
  const auto served = nlohmann::json::parse(ReadAll(hf + "/config.json"));
  const auto words = nlohmann::json::parse(ReadAll(hf + "/tokenizer_config.json"));
  const Outcome end = RunSluice("tokenize --ids --tokenizer " + hf + "/tokenizer.json",
                                nlohmann::json{{"text", words.at("eos_token")}}.dump() + "\n");
  EXPECT_EQ(nlohmann::json::parse(end.out).at("ids"),
            nlohmann::json::array({served.at("eos_token_id")}));
  const Outcome import =
      RunSluice("import --set compute.precision=FP32 --set train.sequence_length=32 --from " + hf +
                " --to " + RunDir("merged"));
  ASSERT_EQ(import.exit_code, 0) << import.err;
  const auto score = [&](const std::string& name) {
    const Outcome scored =
        RunSluice("score --json --checkpoint " + RunDir(name), "{\"ids\": [5, 100, 7, 9, 50]}\n");
    EXPECT_EQ(scored.exit_code, 0) << scored.err;
    return scored.out;
  };
  EXPECT_EQ(score("merged"), score("lora"));
  EXPECT_NE(score("merged"), score("base"));

  const Outcome none = RunSluice("adapter --checkpoint " + RunDir("base") + " --to " + to);
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, HasSubstr("found no LoRA adapters"));
}

// Data that a user may well have: one sentence each, and a run is stopped or goes on knowingly.
TEST_F(Finetune, OddConversationsAreSaidInOneSentence) {
  const std::string good = R"({"prompt": "What?", "completion": " The number."})";
  const std::string letters(200, 'x');
  const auto train = [&](const std::string& lines, const std::vector<std::string>& more = {}) {
    std::ofstream(dir_ + "/odd.jsonl") << lines;
    std::vector<std::string> edits = {
        "run.init_from=" + RunDir("base"), "data.tokenizer=" + RunDir("base") + "/tokenizer.json",
        "data.sft=" + dir_ + "/odd.jsonl", "eval.every=1000", "train.steps=1"};
    edits.insert(edits.end(), more.begin(), more.end());
    std::filesystem::remove_all(RunDir("odd"));
    return Train("odd", 1, edits);
  };
  for (const auto& [lines, message] : std::vector<std::pair<std::string, std::string>>{
           {"", "there is no conversation in '"},
           {good + "\n\n" + R"({"messages": [{"role": "user"}]})", "odd.jsonl, line 3: a message"},
           {good + "\n" + R"({"messages": [{"role": "tool", "content": "x"}]})", "role 'tool'"},
           {good + "\n{", "odd.jsonl, line 2: "},
           {R"({"prompt": ")" + letters + R"(", "completion": "a"})",
            "no conversation has anything to learn in its first 33 tokens"}}) {
    const Outcome run = train(lines);
    EXPECT_EQ(run.exit_code, 1) << lines;
    EXPECT_THAT(run.err, HasSubstr(message)) << lines;
  }
  const Outcome lacks = train(good, {"data.chat_template=qwen3"});
  EXPECT_EQ(lacks.exit_code, 1);
  EXPECT_THAT(lacks.err, HasSubstr("qwen3 needs the token '<|im_start|>', which the tokenizer"));
  const Outcome cut = train(good + "\n" + R"({"prompt": "a", "completion": ")" + letters + "\"}\n" +
                            R"({"prompt": ")" + letters + R"(", "completion": "a"})");
  EXPECT_EQ(cut.exit_code, 0) << cut.err;
  EXPECT_THAT(cut.out, HasSubstr("data.sft: 2 conversations packed into 2 sequences"));
  EXPECT_THAT(cut.out, HasSubstr("warning: 2 longer than train.sequence_length 32 are cut, 1 of "
                                 "them before their first answer, so left out"));
}

TEST_F(Finetune, MultipleChoiceIsTheSameOnFourRanks) {
  const std::string eval =
      "eval --checkpoint " + RunDir("base") + " --multiple-choice " + Questions();
  const Outcome one = RunSluice(eval + " --json");
  ASSERT_EQ(one.exit_code, 0) << one.err;
  const auto result = nlohmann::json::parse(one.out);
  EXPECT_EQ(result["questions"], 13);
  EXPECT_EQ(result["chance"], 0.5);
  const std::string launcher = testing::SourcePath("launch/run -np 4 ");
  const Outcome four = RunShell(launcher + SLUICE_BINARY + " " + eval + " --json");
  EXPECT_EQ(four.exit_code, 0) << four.err;
  EXPECT_EQ(four.out, one.out);
  EXPECT_THAT(RunSluice(eval).out, HasSubstr("13 questions | accuracy "));

  const Outcome both = RunSluice(eval + " --batches 3");
  EXPECT_EQ(both.exit_code, 1);
  EXPECT_THAT(both.err, HasSubstr("goes without --text, --sft, --batches and --ema"));
  const Outcome alone = RunSluice("eval --checkpoint " + RunDir("base") + " --chat qwen3");
  EXPECT_EQ(alone.exit_code, 1);
  EXPECT_THAT(alone.err, HasSubstr("--chat goes with --multiple-choice only"));
  const Outcome none = RunShell(launcher + SLUICE_BINARY + " eval --checkpoint " + RunDir("base") +
                                " --multiple-choice " + dir_ + "/sft.jsonl");
  EXPECT_NE(none.exit_code, 0);
  EXPECT_THAT(none.err, HasSubstr("sft.jsonl, line 1: "));
}

TEST_F(Finetune, ExpertsAreChosenByTheTasksDataAndTrainedAlone) {
  const std::string file = dir_ + "/experts.json";
  const Outcome chosen = RunSluice("experts --checkpoint " + RunDir("base") + " --sft " + dir_ +
                                   "/sft.jsonl --fraction 0.4 --output " + file);
  ASSERT_EQ(chosen.exit_code, 0) << chosen.err;
  const auto report = nlohmann::json::parse(ReadAll(file));
  ASSERT_EQ(report["layers"].size(), 3u);  // two and multi-token prediction
  for (const auto& layer : report["layers"]) {
    double sum = 0, of_chosen = 0;
    for (const double share : layer["gate_share"]) sum += share;
    for (const int expert : layer["experts"])
      of_chosen += layer["gate_share"][expert].get<double>();
    EXPECT_NEAR(sum, 1, 1e-9);
    EXPECT_GE(of_chosen, 0.4);
    EXPECT_LT(layer["experts"].size(), 4u);
  }
  const Outcome run =
      Train("experts", 4,
            SftEdits({"finetune.mode=experts", "finetune.experts_file=" + file, "train.steps=6"}));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto digest = Digest(RunDir("experts"));
  size_t masters = 0, expected = 0;
  for (const std::string& line : digest) masters += line.find("master/") != std::string::npos;
  for (const auto& layer : report["layers"]) expected += 3 * layer["experts"].size();
  EXPECT_EQ(masters, expected);
}

// What the example learns from: every line is read, no held-out prompt is trained on, and the
// questions with choices are the held-out ones.
TEST(Instructions, AreMadeFromTheBundledNovels) {
  const std::string dir = TestFolder();
  const Outcome made = RunShell(testing::SourcePath("launch/examples/make_instructions ") + dir);
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const auto lines = [&](const std::string& name) {
    std::ifstream file(dir + "/" + name);
    std::vector<nlohmann::json> rows;
    for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
    return rows;
  };
  const auto train = lines("train.jsonl"), held_out = lines("held_out.jsonl"),
             choices = lines("choices.jsonl");
  EXPECT_GT(held_out.size(), 50u);
  EXPECT_EQ(train.size(), 3 * held_out.size());
  ASSERT_EQ(choices.size(), held_out.size());
  std::set<std::string> trained;
  for (const auto& row : train) trained.insert(row.at("prompt").get<std::string>());
  EXPECT_EQ(trained.size(), train.size());
  for (size_t i = 0; i < choices.size(); ++i) {
    EXPECT_EQ(trained.count(held_out[i].at("prompt").get<std::string>()), 0u);
    EXPECT_EQ(choices[i].at("question"), held_out[i].at("prompt"));
    EXPECT_EQ(" " + choices[i].at("answer").get<std::string>(), held_out[i].at("completion"));
    const auto list = choices[i].at("choices").get<std::vector<std::string>>();
    EXPECT_EQ(list.size(), 5u);
    EXPECT_EQ(std::count(list.begin(), list.end(), choices[i].at("answer").get<std::string>()), 1);
  }
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace sluice::launch
