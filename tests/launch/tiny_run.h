// Training runs of a second: a model of a few thousand parameters on a text of the test's own.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::launch {

inline std::string Sets(const std::vector<std::string>& edits) {
  std::string flags;
  for (const std::string& edit : edits) flags += " --set " + edit;
  return flags;
}

inline const std::vector<std::string> kFourRanks = {"mesh.pipe=2", "mesh.data=2", "mesh.expert=2"};

class TinyRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = TestFolder();
    WriteText(dir_ + "/train.txt", 3, 40'000);
    WriteText(dir_ + "/validation.txt", 5, 2'000);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  // Sentences of numbers, other ones for every `multiplier`.
  static void WriteText(const std::string& path, int multiplier, size_t bytes) {
    std::string text;
    for (int i = 0; text.size() < bytes; ++i) {
      text += "The number " + std::to_string(i * multiplier) + " follows " +
              std::to_string((i - 1) * multiplier) +
              (i % multiplier == 0 ? ", a lucky one.\n" : ", as usual.\n");
    }
    std::ofstream(path) << text;
  }

  std::string RunDir(const std::string& name) const { return dir_ + "/" + name; }

  // A command line that trains run folder `name` on `ranks` ranks; `edits` win over the defaults.
  std::string TrainCommand(const std::string& name, int ranks,
                           const std::vector<std::string>& edits = {}) const {
    const std::vector<std::string> defaults = {
        "model.vocab_size=272", "data.train_vocab_size=272", "model.hidden_size=32",
        "model.moe_intermediate_size=16", "model.n_routed_experts=4", "model.kv_lora_rank=16",
        "model.num_nextn_predict_layers=1", "train.sequence_length=32", "train.lr.schedule=cosine",
        "compute.threads=1", "train.steps=20", "checkpoint.every=5",
        // (The cache is made by the first run of the test and read by the others.)
        "data.cache_dir=" + dir_ + "/cache", "run.dir=" + RunDir(name)};
    const bool has_text = std::any_of(edits.begin(), edits.end(), [](const std::string& edit) {
      return edit.rfind("data.train=", 0) == 0;  // a second one would be added to the list
    });
    const std::string start =
        ranks == 1 ? "" : testing::SourcePath("launch/run -np ") + std::to_string(ranks) + " ";
    return start + SLUICE_BINARY + " train --preset tiny" + Sets(defaults) +
           (has_text ? "" : Sets({"data.train=" + dir_ + "/train.txt"})) +
           (ranks == 4 ? Sets(kFourRanks) : "") + Sets(edits);
  }
  Outcome Train(const std::string& name, int ranks,
                const std::vector<std::string>& edits = {}) const {
    return RunShell(TrainCommand(name, ranks, edits));
  }

  // What must not depend on interruptions, one line a step.
  std::vector<std::string> Rows(const std::string& name) const {
    std::ifstream file(RunDir(name) + "/metrics.jsonl");
    std::vector<std::string> rows;
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      std::string row;
      for (const char* key :
           {"step", "loss_hex", "mtp_loss", "grad_norm_hex", "learning_rate", "skipped"}) {
        EXPECT_TRUE(json.contains(key)) << line;
        if (json.contains(key)) row += json[key].dump() + " ";
      }
      rows.push_back(row);
    }
    return rows;
  }
  // Line by line, the total last.
  std::vector<std::string> Digest(const std::string& checkpoint) const {
    const Outcome outcome = RunSluice("inspect digest " + checkpoint);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    std::vector<std::string> lines(1);
    for (const char c : outcome.out) {
      if (c == '\n') {
        lines.emplace_back();
      } else {
        lines.back() += c;
      }
    }
    return lines;
  }
  // Folders of the generations, the oldest first.
  std::vector<std::string> Generations(const std::string& name) const {
    std::vector<std::string> paths;
    for (const auto& entry : std::filesystem::directory_iterator(RunDir(name) + "/checkpoints")) {
      paths.push_back(entry.path().string());
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }
  static std::string Summary(const std::string& bytes) {
    return std::to_string(bytes.size()) + " bytes, hash " +
           std::to_string(std::hash<std::string>()(bytes));
  }
  // Every file of a run folder and its summary, to see that nothing was lost or changed.
  std::map<std::string, std::string> Contents(const std::string& name) const {
    std::map<std::string, std::string> contents;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(RunDir(name))) {
      if (!entry.is_regular_file()) continue;
      const std::string bytes = ReadAll(entry.path().string());
      contents[entry.path().string()] = Summary(bytes);
    }
    return contents;
  }
  // The largest file of a generation: a shard.
  static std::string ShardOf(const std::string& generation) {
    std::string largest;
    uintmax_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(generation)) {
      if (entry.file_size() > bytes) largest = entry.path().string();
      bytes = std::max(bytes, entry.file_size());
    }
    return largest;
  }
  static void FlipByte(const std::string& path, double place) {
    std::string bytes = ReadAll(path);
    ASSERT_FALSE(bytes.empty()) << path;
    char& byte = bytes[static_cast<size_t>(place * static_cast<double>(bytes.size()))];
    byte = static_cast<char>(byte ^ 0x40);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }

  std::string dir_;
};

}  // namespace sluice::launch
