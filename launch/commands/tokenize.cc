// `sluice tokenize`: text to vocabularies and token files; text to ids and back for scripts.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "data/bpe_train.h"
#include "data/chat_template.h"
#include "data/json_lines.h"
#include "data/sft_corpus.h"
#include "data/tokenize_corpus.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "kernels/core/status_macros.h"
#include "launch/commands/commands.h"
#include "launch/json_text.h"
#include "launch/machine.h"
#include "launch/progress_bar.h"

namespace sluice::launch {
namespace {

constexpr double kMega = 1e6;

class Tokenize : public Command {
 public:
  std::string name() const override { return "tokenize"; }
  std::string summary() const override { return "turns text into token files and vocabularies"; }
  std::string description() const override {
    return "INPUT is text (.txt), JSONL with a \"text\" field (.jsonl), each also .gz or .zst, or "
           "a\n"
           "folder of them. With --vocab-size a byte-level BPE vocabulary is trained on the inputs "
           "and\n"
           "written to --tokenizer first; a text that has not that many pairs of tokens twice "
           "gives a\n"
           "smaller one, and its size is printed.\n\n"
           "  sluice tokenize --vocab-size 4096 --tokenizer tokenizer.json --output train.tokens "
           "text/\n"
           "  sluice tokenize --tokenizer tokenizer.json --output train.tokens corpus.jsonl.zst\n\n"
           "For scripts, line by line from stdin to stdout:\n\n"
           "  sluice tokenize --ids --tokenizer tokenizer.json     {\"text\": ...} to {\"ids\": "
           "[...]}\n"
           "  sluice tokenize --decode --tokenizer tokenizer.json  the reverse\n\n"
           "With --chat a conversation ({\"messages\": ...} or {\"prompt\": ..., \"completion\": "
           "...})\n"
           "is a document; the token file gets a loss mask beside it, and --ids gives it, too:\n\n"
           "  sluice tokenize --chat qwen3 --tokenizer tokenizer.json --output sft.tokens "
           "chats.jsonl";
  }
  FlagSet flags() override {
    return {
        {.name = "INPUT", .help = "files and folders of text", .target = &inputs_},
        {.name = "--tokenizer",
         .value = "FILE",
         .help = "a tokenizer.json: read, or with --vocab-size written",
         .target = &tokenizer_,
         .required = true},
        {.name = "--output",
         .value = "FILE",
         .help = "the token file to write",
         .target = &output_},
        {.name = "--vocab-size",
         .value = "N",
         .help = "train a vocabulary of N tokens, special tokens included",
         .target = &vocab_size_},
        {.name = "--threads", .value = "N", .help = "default: one a core", .target = &threads_},
        {.name = "--strict",
         .help = "refuse bytes that are not UTF-8 instead of reading them as U+FFFD",
         .target = &strict_},
        {.name = "--json", .help = "the summary as one JSON object", .target = &json_},
        {.name = "--ids", .help = "text to ids, JSONL on stdin", .target = &ids_},
        {.name = "--plain",
         .help = "added tokens spelled out in the text are text",
         .target = &plain_},
        {.name = "--chat",
         .value = "TEMPLATE",
         .help = "the lines are conversations: " + absl::StrJoin(data::ChatTemplate::Names(), ", "),
         .target = &chat_},
        {.name = "--decode", .help = "ids to text, JSONL on stdin", .target = &decode_},
        {.name = "--add-special-tokens",
         .help = "with --ids: add the BOS and EOS that the tokenizer asks for",
         .target = &add_special_tokens_},
        {.name = "--skip-special-tokens",
         .help = "with --decode: leave special tokens out of the text",
         .target = &skip_special_tokens_}};
  }

  absl::Status Run(const CommandContext& /*context*/) override {
    RETURN_IF_ERROR(CheckFlags());
    if (ids_ || decode_) {
      ASSIGN_OR_RETURN(const auto tokenizer, data::LoadTokenizer(tokenizer_));
      if (!chat_.empty()) {
        ASSIGN_OR_RETURN(template_, data::ChatTemplate::Create(chat_, *tokenizer, {}));
      }
      return ConvertLines(*tokenizer);
    }
    if (vocab_size_ > 0) RETURN_IF_ERROR(TrainVocabulary());
    if (!output_.empty()) RETURN_IF_ERROR(WriteTokens());
    if (json_) std::puts(JsonText(summary_).c_str());
    return absl::OkStatus();
  }

 private:
  absl::Status CheckFlags() const {
    const auto wrong = [](absl::string_view sentence) {
      return absl::InvalidArgumentError(absl::StrCat("tokenize: ", sentence));
    };
    std::error_code error;
    if (ids_ && decode_) return wrong("--ids and --decode are both given, wanted one");
    if (!chat_.empty() && (decode_ || vocab_size_ > 0))
      return wrong("--chat goes with --ids or --output only");
    if (plain_ && (decode_ || !chat_.empty() || add_special_tokens_)) {
      return wrong(
          "--plain does not go with --decode, --chat (where control tokens are text anyway) or "
          "--add-special-tokens");
    }
    if (ids_ || decode_) {
      return inputs_.empty() && output_.empty()
                 ? absl::OkStatus()
                 : wrong("--ids and --decode read stdin and write stdout; found INPUT or --output");
    }
    if (inputs_.empty()) return wrong("no INPUT is given, wanted files or folders of text");
    if (vocab_size_ < 0 || threads_ < 0)
      return wrong("--vocab-size and --threads cannot be negative");
    if (vocab_size_ == 0 && output_.empty()) return wrong("wanted --output, --vocab-size or both");
    if (vocab_size_ > 0 && std::filesystem::exists(tokenizer_, error)) {
      return wrong(absl::StrCat("--vocab-size would overwrite ", tokenizer_,
                                "; remove it, or leave --vocab-size out to use it"));
    }
    return absl::OkStatus();
  }

  data::CorpusOptions Corpus(const std::string& what) const {
    const auto bar = std::make_shared<ProgressBar>(what);
    return {.inputs = inputs_,
            .num_threads = threads_ > 0 ? static_cast<int>(threads_) : UsableCores(),
            .strict = strict_,
            .added_tokens = How().added_tokens,
            .progress = [bar](const data::CorpusProgress& progress) {
              bar->Show(progress.bytes_done, progress.bytes_total);
            }};
  }

  absl::Status TrainVocabulary() {
    data::BpeTrainOptions train;
    train.vocab_size = static_cast<int>(vocab_size_);
    ASSIGN_OR_RETURN(const data::CorpusResult result,
                     data::TrainVocabulary(Corpus("vocabulary"), train, tokenizer_));
    Report("vocabulary", tokenizer_, result);
    summary_["vocabulary"]["size"] = result.vocab_size;
    if (json_) return absl::OkStatus();
    std::puts(absl::StrCat("vocabulary: ", result.vocab_size, " tokens",
                           result.vocab_size < vocab_size_
                               ? absl::StrCat(" of the ", vocab_size_, " asked for: no pair of ",
                                              "tokens is left that the text has twice")
                               : "")
                  .c_str());
    return absl::OkStatus();
  }

  absl::Status WriteTokens() {
    ASSIGN_OR_RETURN(const auto tokenizer, data::LoadTokenizer(tokenizer_));
    if (!chat_.empty()) return WriteConversations(*tokenizer);
    ASSIGN_OR_RETURN(const data::CorpusResult result,
                     data::TokenizeCorpus(Corpus("tokens"), *tokenizer, output_));
    Report("tokens", output_, result);
    return absl::OkStatus();
  }

  absl::Status WriteConversations(const data::Tokenizer& tokenizer) {
    ASSIGN_OR_RETURN(const auto chat, data::ChatTemplate::Create(chat_, tokenizer, {}));
    ASSIGN_OR_RETURN(const data::SftCorpusResult result,
                     data::TokenizeConversations(Corpus("tokens"), tokenizer, *chat, output_));
    summary_["conversations"] = {{"path", output_},
                                 {"mask", data::TargetMaskPath(output_)},
                                 {"conversations", result.conversations},
                                 {"tokens", result.tokens},
                                 {"targets", result.targets},
                                 {"replaced", result.num_replaced}};
    if (json_) return absl::OkStatus();
    std::string line =
        absl::StrFormat("conversations: %s: %d conversations, %d tokens, %d of them learned (%s)",
                        output_, result.conversations, result.tokens, result.targets, chat_);
    if (result.num_replaced > 0)
      absl::StrAppend(&line, "; ", data::ReplacedText(result.num_replaced));
    std::puts(line.c_str());
    return absl::OkStatus();
  }

  void Report(const std::string& what, const std::string& path, const data::CorpusResult& result) {
    const double seconds = std::max(result.seconds, 1e-9);
    const double megabytes_per_second = result.text_bytes / kMega / seconds;
    summary_[what] = {{"path", path},
                      {"documents", result.documents},
                      {"empty_documents", result.empty_documents},
                      {"text_bytes", result.text_bytes},
                      {"tokens", result.tokens},
                      {"replaced", result.num_replaced},
                      {"seconds", result.seconds}};
    if (json_) return;
    std::string line = absl::StrFormat("%s: %s: %d documents, %.1f MB of text", what, path,
                                       result.documents, result.text_bytes / kMega);
    if (result.tokens > 0) {
      absl::StrAppendFormat(&line, ", %d tokens (%.2f bytes each)", result.tokens,
                            static_cast<double>(result.text_bytes) / result.tokens);
    }
    absl::StrAppendFormat(&line, "; %.1f s, %.1f MB/s", result.seconds, megabytes_per_second);
    if (result.num_replaced > 0) {
      absl::StrAppend(&line, "; ", data::ReplacedText(result.num_replaced));
    }
    std::puts(line.c_str());
  }

  data::EncodeOptions How() const {
    return {.added_tokens = plain_ ? data::AddedTokens::kNone : data::AddedTokens::kAll};
  }

  // `num_replaced` grows by the places that were not UTF-8.
  absl::StatusOr<std::string> Convert(std::string line, const data::Tokenizer& tokenizer,
                                      int64_t* num_replaced) const {
    if (!data::IsValidUtf8(line)) {
      if (strict_) return absl::InvalidArgumentError("the line has bytes that are not UTF-8");
      std::string valid;
      *num_replaced += data::AppendAsValidUtf8(line, &valid);
      line = std::move(valid);
    }
    if (template_ != nullptr) {
      ASSIGN_OR_RETURN(const data::Conversation conversation, data::ParseConversation(line));
      ASSIGN_OR_RETURN(const data::TokenizedChat chat, template_->Tokenize(conversation));
      return absl::StrCat("{\"ids\": [", absl::StrJoin(chat.ids, ", "), "], \"targets\": [",
                          absl::StrJoin(chat.is_target, ", "), "]}");
    }
    ASSIGN_OR_RETURN(const data::JsonLine json, data::ParseJsonLine(line));
    if (ids_) {
      if (!json.text.has_value()) return absl::InvalidArgumentError("wanted {\"text\": ...}");
      return data::IdsAsJsonLine(add_special_tokens_ ? tokenizer.EncodeWithSpecialTokens(*json.text)
                                                     : tokenizer.Encode(*json.text, How()));
    }
    if (!json.ids.has_value()) return absl::InvalidArgumentError("wanted {\"ids\": [...]}");
    ASSIGN_OR_RETURN(const std::string text, tokenizer.Decode(*json.ids, skip_special_tokens_));
    return data::TextAsJsonLine(text);
  }

  absl::Status ConvertLines(const data::Tokenizer& tokenizer) const {
    std::ios::sync_with_stdio(false);
    std::string line;
    int64_t num_replaced = 0;
    for (int64_t number = 1; std::getline(std::cin, line); ++number) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const absl::StatusOr<std::string> converted = Convert(line, tokenizer, &num_replaced);
      if (!converted.ok()) {
        std::cout.flush();
        return absl::InvalidArgumentError(
            absl::StrCat("tokenize: line ", number, " of stdin: ", converted.status().message()));
      }
      // The line end flushes nothing, but a program that asks line by line waits for its answer.
      std::cout << *converted << '\n';
      if (std::cin.rdbuf()->in_avail() <= 0) std::cout.flush();
    }
    std::cout.flush();
    if (num_replaced > 0) {
      std::fputs(absl::StrCat("sluice: warning: ", data::ReplacedText(num_replaced), "\n").c_str(),
                 stderr);
    }
    return std::cout.good() ? absl::OkStatus()
                            : absl::UnavailableError("tokenize: cannot write to stdout");
  }

  std::vector<std::string> inputs_;
  std::string tokenizer_, output_, chat_;
  std::unique_ptr<data::ChatTemplate> template_;
  int64_t vocab_size_ = 0, threads_ = 0;
  bool strict_ = false, json_ = false, ids_ = false, decode_ = false, plain_ = false;
  bool add_special_tokens_ = false, skip_special_tokens_ = false;
  Json summary_;
};

}  // namespace

std::unique_ptr<Command> CreateTokenizeCommand() { return std::make_unique<Tokenize>(); }

}  // namespace sluice::launch
