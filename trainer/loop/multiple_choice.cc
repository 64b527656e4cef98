#include "trainer/loop/multiple_choice.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "data/chat_template.h"
#include "data/mapped_file.h"
#include "data/multiple_choice.h"
#include "data/utf8.h"
#include "kernels/core/status_macros.h"
#include "nlohmann/json.hpp"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/load_model.h"
#include "trainer/loop/run_state.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {
namespace {

// One answer behind its question.
struct Line {
  std::vector<int32_t> ids;
  int64_t num_answer = 0;  // of the ids, last
  int64_t num_characters = 0;
};

bool EndsInSpace(absl::string_view text) {
  return !text.empty() && absl::ascii_isspace(static_cast<unsigned char>(text.back()));
}

int64_t CountCharacters(absl::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

// Questions to tokens.
class LineMaker {
 public:
  // `most`: tokens of a line; `vocabulary`: of the model.
  LineMaker(const data::Tokenizer& tokenizer, std::unique_ptr<data::ChatTemplate> chat_template,
            int64_t most, int64_t vocabulary)
      : tokenizer_(tokenizer),
        chat_template_(std::move(chat_template)),
        most_(most),
        vocabulary_(vocabulary) {}

  // A line for each choice; *cut: the question's beginning had to be left out of one.
  absl::StatusOr<std::vector<Line>> Make(const data::Question& question, bool* cut) const {
    std::vector<Line> lines;
    for (const std::string& choice : question.choices) {
      Line line = {.num_characters = CountCharacters(choice)};
      std::vector<int32_t> prompt, answer;
      if (chat_template_ != nullptr) {
        ASSIGN_OR_RETURN(prompt, chat_template_->TokenizePrompt({.prompt = question.prompt}));
        answer = tokenizer_.Encode(choice, {.place = data::TextPlace::kContinues});
      } else {
        Split(question.prompt, choice, &prompt, &answer);
      }
      line.num_answer = static_cast<int64_t>(answer.size());
      const int64_t room =
          std::min<int64_t>(most_ - line.num_answer, static_cast<int64_t>(prompt.size()));
      if (answer.empty() || room < 1) {
        return absl::InvalidArgumentError(
            absl::StrCat("found ", prompt.size(), " tokens of a question and ", answer.size(),
                         " of an answer, wanted 1 or more of each and ", most_, " together"));
      }
      *cut = *cut || room < static_cast<int64_t>(prompt.size());
      line.ids.assign(prompt.end() - room, prompt.end());
      line.ids.insert(line.ids.end(), answer.begin(), answer.end());
      for (const int32_t id : line.ids) {
        if (id < vocabulary_) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("found token ", id, ", wanted 0 to ", vocabulary_ - 1));
      }
      lines.push_back(std::move(line));
    }
    return lines;
  }

 private:
  // The tokens of question and answer as one text, cut where the question alone would end. A space
  // at the end of the question belongs to the answer.
  void Split(absl::string_view question, absl::string_view choice, std::vector<int32_t>* prompt,
             std::vector<int32_t>* answer) const {
    const absl::string_view context = absl::StripTrailingAsciiWhitespace(question);
    const bool space = !question.empty() && !EndsInSpace(question) &&
                       !absl::ascii_isspace(static_cast<unsigned char>(choice[0]));
    const std::string whole = absl::StrCat(question, space ? " " : "", choice);
    *prompt = tokenizer_.Encode(context);
    const std::vector<int32_t> ids = tokenizer_.Encode(whole);
    answer->assign(ids.begin() + static_cast<int64_t>(std::min(prompt->size(), ids.size())),
                   ids.end());
    const std::vector<int32_t> special = tokenizer_.EncodeWithSpecialTokens("");
    if (!special.empty() && special[0] == tokenizer_.bos_id()) {
      prompt->insert(prompt->begin(), special[0]);
    } else if (prompt->empty() && tokenizer_.eos_id() >= 0) {
      prompt->push_back(tokenizer_.eos_id());
    }
  }

  const data::Tokenizer& tokenizer_;
  const std::unique_ptr<data::ChatTemplate> chat_template_;
  const int64_t most_, vocabulary_;
};

// A rank's part of a batch: lines [first, first + count) of `order`, which may end before.
HostBatch ToBatch(const std::vector<Line>& lines, std::span<const size_t> order, size_t first,
                  size_t count, int64_t length) {
  HostBatch batch;
  batch.document_starts.resize(count);
  batch.num_targets.assign(count, 0);
  batch.tokens.assign(count * (length + 1), 0);
  batch.is_target.assign(count * (length + 1), 0);
  for (size_t i = 0; i < count && first + i < order.size(); ++i) {
    const Line& line = lines[order[first + i]];
    const auto row = static_cast<int64_t>(i) * (length + 1),
               end = static_cast<int64_t>(line.ids.size());
    std::copy(line.ids.begin(), line.ids.end(), batch.tokens.begin() + row);
    std::fill(batch.is_target.begin() + row + end - line.num_answer,
              batch.is_target.begin() + row + end, uint8_t{1});
    batch.num_targets[i] = end - 1;
  }
  return batch;
}

// [lines] minus the log-probability of each answer. Collective; long lines first, so that a
// batch has lines of about one length.
absl::StatusOr<std::vector<double>> AnswerLosses(RankModel& model, const std::vector<Line>& lines) {
  constexpr int64_t kMostAtOnce = 64;  // lines of a microbatch
  std::vector<size_t> order(lines.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return lines[a].ids.size() > lines[b].ids.size(); });
  const auto ranks = static_cast<size_t>(model.world().size()),
             rank = static_cast<size_t>(model.data_rank());
  std::vector<double> losses(lines.size());
  BatchOptions options;
  options.mtp_depth = model.config().model().num_nextn_predict_layers();
  for (size_t first = 0; first < order.size();) {
    options.sequence_length = std::max<int64_t>(
        static_cast<int64_t>(lines[order[first]].ids.size()) - 1, options.mtp_depth + 1);
    options.microbatch = std::clamp<int64_t>(
        model.config().train().sequence_length() / options.sequence_length, 1, kMostAtOnce);
    const auto mine = static_cast<size_t>(options.microbatch);
    DeviceBatch batch(model.device(), options);
    RETURN_IF_ERROR(
        batch.Load(ToBatch(lines, order, first + rank * mine, mine, options.sequence_length),
                   static_cast<int64_t>(rank * mine)));
    SequenceSums sums;
    ASSIGN_OR_RETURN(const StepResult step,
                     EvaluateStep(model, batch, static_cast<int64_t>(ranks * mine), &sums));
    for (size_t i = 0; i < ranks * mine && first + i < order.size(); ++i) {
      losses[order[first + i]] = sums.loss[i];
    }
    first += ranks * mine;
  }
  return losses;
}

MultipleChoiceResult Count(const std::vector<data::Question>& questions,
                           const std::vector<Line>& lines, const std::vector<double>& losses) {
  MultipleChoiceResult result;
  size_t at = 0;
  for (const data::Question& question : questions) {
    size_t best = 0, best_normalized = 0;
    const auto per_character = [&](size_t i) {
      return losses[at + i] / static_cast<double>(lines[at + i].num_characters);
    };
    for (size_t i = 1; i < question.choices.size(); ++i) {
      if (losses[at + i] < losses[at + best]) best = i;
      if (per_character(i) < per_character(best_normalized)) best_normalized = i;
    }
    const auto right = static_cast<size_t>(question.answer);
    result.accuracy += best == right ? 1 : 0;
    result.normalized_accuracy += best_normalized == right ? 1 : 0;
    result.chance += 1.0 / static_cast<double>(question.choices.size());
    at += question.choices.size();
  }
  result.questions = static_cast<int64_t>(questions.size());
  const double count = static_cast<double>(result.questions);
  result.accuracy /= count;
  result.normalized_accuracy /= count;
  result.chance /= count;
  return result;
}

struct Input {
  std::vector<data::Question> questions;
  std::vector<Line> lines;  // of all choices, in order
  int64_t num_cut = 0;
};

absl::StatusOr<Input> ReadInput(const MultipleChoiceOptions& options, const LoadedModel& loaded) {
  ASSIGN_OR_RETURN(const std::string text, data::ReadWholeFile(options.path));
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizerOf(loaded.generation, options.tokenizer));
  std::unique_ptr<data::ChatTemplate> chat_template;
  if (!options.chat_template.empty()) {
    ASSIGN_OR_RETURN(chat_template,
                     data::ChatTemplate::Create(options.chat_template, *tokenizer, {}));
  }
  const LineMaker maker(*tokenizer, std::move(chat_template),
                        loaded.config.train().sequence_length() + 1,
                        loaded.config.model().vocab_size());
  Input input;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    const auto question = data::IsValidUtf8(line)
                              ? data::ParseQuestion(line)
                              : absl::InvalidArgumentError("the line is not UTF-8");
    bool cut = false;
    const auto lines = question.ok() ? maker.Make(*question, &cut) : question.status();
    if (!lines.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.path, ", line ", number, ": ", lines.status().message()));
    }
    input.num_cut += cut ? 1 : 0;
    input.questions.push_back(*question);
    input.lines.insert(input.lines.end(), lines->begin(), lines->end());
  }
  if (input.questions.empty())
    return absl::InvalidArgumentError(absl::StrCat("there is no question in '", options.path, "'"));
  return input;
}

}  // namespace

absl::StatusOr<MultipleChoiceResult> EvaluateMultipleChoice(const MultipleChoiceOptions& options,
                                                            const RankContext& rank) {
  ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(options.checkpoint, rank));
  const absl::StatusOr<Input> input = ReadInput(options, loaded);
  RETURN_IF_ERROR(AgreeOnStatus(*rank.world, input.status()));
  ASSIGN_OR_RETURN(const std::vector<double> losses, AnswerLosses(*loaded.model, input->lines));
  MultipleChoiceResult result = Count(input->questions, input->lines, losses);
  result.num_cut = input->num_cut;
  return result;
}

std::string MultipleChoiceLine(const MultipleChoiceResult& r) {
  std::string line =
      absl::StrFormat("%d questions | accuracy %.4f | length-normalised %.4f | guessing %.4f",
                      r.questions, r.accuracy, r.normalized_accuracy, r.chance);
  if (r.num_cut > 0) absl::StrAppend(&line, " | ", r.num_cut, " questions cut to a sequence");
  return line;
}

std::string MultipleChoiceJson(const MultipleChoiceResult& r) {
  nlohmann::ordered_json row;
  row["questions"] = r.questions;
  row["accuracy"] = r.accuracy;
  row["normalized_accuracy"] = r.normalized_accuracy;
  row["chance"] = r.chance;
  row["cut"] = r.num_cut;
  return row.dump();
}

}  // namespace sluice::trainer
