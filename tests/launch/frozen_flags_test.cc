// Flags do not grow by accident: what can be configured goes into RunConfig (--set), and a new flag
// of the program is added here on purpose.
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/commands/commands.h"

namespace sluice::launch {
namespace {

TEST(FrozenFlags, TheProgramHasExactlyTheseCommandsAndFlags) {
  const std::map<std::string, std::vector<std::string>> wanted = {
      {"train", {"--preset", "--config", "--set", "--device", "--dry-run"}},
      {"tokenize",
       {"INPUT", "--tokenizer", "--output", "--vocab-size", "--threads", "--strict", "--json",
        "--ids", "--plain", "--chat", "--decode", "--add-special-tokens", "--skip-special-tokens"}},
      {"eval",
       {"--checkpoint", "--text", "--sft", "--batches", "--multiple-choice", "--chat", "--ema",
        "--json"}},
      {"score", {"--checkpoint", "--tokenizer", "--logits", "--routes", "--gradients", "--json"}},
      {"generate",
       {"--checkpoint", "--prompt", "--chat", "--tokens", "--temperature", "--top-p", "--seed",
        "--tokenizer", "--json"}},
      {"simulate",
       {"--preset", "--config", "--set", "--cluster", "--nodes", "--imbalance", "--routes",
        "--straggler", "--width", "--trace", "--svg", "--json"}},
      {"plan",
       {"--preset", "--config", "--set", "--cluster", "--nodes", "--tokens", "--budget",
        "--deadline", "--imbalance", "--routes", "--zero", "--top", "--write", "--explain",
        "--published", "--run", "--json"}},
      {"adapter", {"--checkpoint", "--to", "--base"}},
      {"experts",
       {"--checkpoint", "--sft", "--text", "--template", "--score", "--fraction", "--batches",
        "--output", "--json"}},
      {"doctor", {"--json", "--calibrate", "--preset", "--config", "--set"}},
      {"export",
       {"--from", "--to", "--dtype", "--ema", "--source", "--shard-gb", "--ignore", "--json"}},
      {"import", {"--from", "--to", "--set", "--ignore", "--no-mtp", "--json"}},
      {"inspect", {"ACTION", "CHECKPOINT", "--json"}},
  };
  std::map<std::string, std::vector<std::string>> found;
  for (const auto& command : AllCommands()) {
    std::vector<std::string>& flags = found[command->name()];
    for (const Flag& flag : command->flags()) flags.push_back(flag.name);
  }
  EXPECT_THAT(found, ::testing::ContainerEq(wanted));
}

}  // namespace
}  // namespace sluice::launch
