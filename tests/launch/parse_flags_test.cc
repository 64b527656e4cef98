#include "launch/parse_flags.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/suggest.h"

namespace sluice::launch {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Toy : public Command {
 public:
  std::string name() const override { return "toy"; }
  std::string summary() const override { return "plays"; }
  std::string description() const override { return "A long story."; }
  FlagSet flags() override {
    return {{.name = "INPUT", .help = "what to read", .target = &inputs},
            {.name = "--preset", .value = "NAME", .help = "a preset", .target = &preset},
            {.name = "--set", .value = "PATH=VALUE", .help = "an edit", .target = &edits},
            {.name = "--count", .value = "N", .help = "how many", .target = &count},
            {.name = "--heat", .value = "T", .help = "how hot", .target = &heat},
            {.name = "--json", .help = "for scripts", .target = &json}};
  }
  absl::Status Run(const CommandContext& /*context*/) override { return absl::OkStatus(); }

  std::vector<std::string> inputs, edits;
  std::string preset = "none";
  int64_t count = 5;
  double heat = 1;
  bool json = false;
};

std::string ErrorOf(const std::vector<std::string>& arguments) {
  Toy toy;
  const absl::Status status = ParseFlags(toy, arguments);
  EXPECT_FALSE(status.ok());
  return std::string(status.message());
}

TEST(ParseFlags, EveryKindIsFilledAndTheRestKeepsItsDefault) {
  Toy toy;
  ASSERT_TRUE(
      ParseFlags(toy, {"a.txt", "--set", "x.y=1", "--heat=0.5", "--set", "z=-2", "b.txt", "--json"})
          .ok());
  EXPECT_THAT(toy.inputs, ElementsAre("a.txt", "b.txt"));
  EXPECT_THAT(toy.edits, ElementsAre("x.y=1", "z=-2"));
  EXPECT_EQ(toy.heat, 0.5);
  EXPECT_TRUE(toy.json);
  EXPECT_EQ(toy.preset, "none");
  EXPECT_EQ(toy.count, 5);
}

TEST(ParseFlags, MistakesAreNamedWithTheNearestFlag) {
  EXPECT_THAT(ErrorOf({"--prest", "tiny"}),
              AllOf(HasSubstr("no flag '--prest'"), HasSubstr("did you mean '--preset'?"),
                    HasSubstr("sluice help toy")));
  EXPECT_THAT(ErrorOf({"--cuont=3"}), HasSubstr("did you mean '--count'?"));
  EXPECT_THAT(ErrorOf({"--count", "three"}), AllOf(HasSubstr("count"), HasSubstr("three")));
  EXPECT_THAT(ErrorOf({"--count"}), HasSubstr("--count"));
}

TEST(ParseFlags, HelpListsEveryFlagWithItsSentence) {
  Toy toy;
  const std::string help = HelpText(toy);
  for (const Flag& flag : toy.flags()) {
    EXPECT_THAT(help, AllOf(HasSubstr(flag.name), HasSubstr(flag.help)));
  }
  EXPECT_THAT(help, AllOf(HasSubstr("usage: sluice toy [INPUT]..."), HasSubstr("A long story.")));
}

TEST(Suggest, DistanceCountsSingleSlips) {
  EXPECT_EQ(EditDistance("", ""), 0);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("steps", "steps"), 0);
  EXPECT_EQ(EditDistance("stesp", "steps"), 1) << "neighbours swapped";
  EXPECT_EQ(EditDistance("step", "steps"), 1);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

TEST(Suggest, NothingIsBetterThanSomethingElse) {
  const std::vector<std::string> names = {"train", "tokenize", "eval"};
  EXPECT_EQ(Nearest("trian", names), "train");
  EXPECT_EQ(Nearest("tokenise", names), "tokenize");
  EXPECT_EQ(Nearest("xyz", names), "");
  EXPECT_EQ(Nearest("", names), "");
  EXPECT_EQ(Nearest("x", {}), "");
}

}  // namespace
}  // namespace sluice::launch
