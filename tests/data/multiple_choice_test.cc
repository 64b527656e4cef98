#include "data/multiple_choice.h"

#include <gmock/gmock.h>

#include "data_test_util.h"

namespace sluice::data {
namespace {

TEST(MultipleChoice, AnswersMayBeNamedInManyWays) {
  for (const char* line :
       {R"({"question": "q", "choices": ["a", "b", "c"], "answer": 1})",
        R"({"question": "q", "choices": ["a", "b", "c"], "answer": "B"})",
        R"({"question": "q", "choices": ["a", "b", "c"], "answer": "b"})",
        R"({"ctx": "q", "endings": ["a", "b", "c"], "label": "1"})",
        R"({"question": "q", "choices": {"text": ["a", "b", "c"], "label": ["x", "y", "z"]},
            "answerKey": "y"})"}) {
    const auto question = ParseQuestion(line);
    ASSERT_TRUE(question.ok()) << line << question.status();
    EXPECT_EQ(question->prompt, "q");
    EXPECT_THAT(question->choices, ::testing::ElementsAre("a", "b", "c"));
    EXPECT_EQ(question->answer, 1) << line;
  }
  // A choice goes before a number.
  EXPECT_EQ(ParseQuestion(R"({"prompt": "1 + 1 =", "choices": ["3", "2"], "answer": "2"})")->answer,
            1);
}

TEST(MultipleChoice, WhatIsNoQuestionIsRefused) {
  const auto refused = [](const std::string& line, const std::string& part) {
    ExpectStatus(ParseQuestion(line).status(), absl::StatusCode::kInvalidArgument, {part});
  };
  refused("[]", "not a JSON object");
  refused(R"({"choices": ["a", "b"], "answer": 0})", "question");
  refused(R"({"question": "q", "choices": ["a"], "answer": 0})", "found 1 choices");
  refused(R"({"question": "q", "choices": ["a", ""], "answer": 0})", "empty");
  refused(R"({"question": "q", "choices": ["a", "b"], "answer": 2})", "answer 2 is none of the 2");
  refused(R"({"question": "q", "choices": ["a", "b"], "answer": "C"})", "none of the 2");
  refused(R"({"question": "q", "choices": {"text": ["a", "b"], "label": ["x"]}, "answer": "x"})",
          "1 labels for 2");
}

}  // namespace
}  // namespace sluice::data
