#include "data/multiple_choice.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sluice::data {
namespace {

using Json = nlohmann::json;
using Texts = std::vector<std::string>;

absl::Status WrongItem(absl::string_view what) { return absl::InvalidArgumentError(what); }

// The first of the fields that is there; throws as at() does for the first if none is.
const Json& Field(const Json& json, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (json.contains(name)) return json.at(name);
  return json.at(*names.begin());
}

// -1: no choice is meant.
int AnswerOf(const Json& answer, const Texts& choices, const Texts& labels) {
  const int count = static_cast<int>(choices.size());
  if (answer.is_number_integer()) {
    const auto index = answer.get<int64_t>();
    return index >= 0 && index < count ? static_cast<int>(index) : -1;
  }
  const std::string text = answer.get<std::string>();
  for (const Texts* names : {&labels, &choices}) {
    const auto at = std::find(names->begin(), names->end(), text);
    if (at != names->end()) return static_cast<int>(at - names->begin());
  }
  int index = -1;
  if (text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z') {
    index = text[0] - 'A';
  } else if (!absl::SimpleAtoi(text, &index)) {
    return -1;
  }
  return index >= 0 && index < count ? index : -1;
}

absl::StatusOr<Question> Parse(const Json& json) {
  if (!json.is_object()) return WrongItem("not a JSON object");
  Question question;
  question.prompt = Field(json, {"question", "ctx", "prompt"}).get<std::string>();
  const Json& choices = Field(json, {"choices", "endings"});
  Texts labels;
  if (choices.is_object()) {
    question.choices = choices.at("text").get<Texts>();
    labels = choices.at("label").get<Texts>();
    if (labels.size() != question.choices.size())
      return WrongItem(absl::StrCat("found ", labels.size(), " labels for ",
                                    question.choices.size(), " choices"));
  } else {
    question.choices = choices.get<Texts>();
  }
  if (question.choices.size() < 2)
    return WrongItem(absl::StrCat("found ", question.choices.size(), " choices, wanted 2 or more"));
  for (const std::string& choice : question.choices)
    if (choice.empty()) return WrongItem("a choice is empty");
  const Json& answer = Field(json, {"answer", "label", "answerKey"});
  question.answer = AnswerOf(answer, question.choices, labels);
  if (question.answer < 0)
    return WrongItem(absl::StrCat("the answer ", answer.dump(), " is none of the ",
                                  question.choices.size(), " choices"));
  return question;
}

}  // namespace

absl::StatusOr<Question> ParseQuestion(absl::string_view line) {
  try {
    return Parse(Json::parse(line.begin(), line.end()));
  } catch (const nlohmann::json::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
}

}  // namespace sluice::data
