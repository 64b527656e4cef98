#include "data/sft_corpus.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "data/text_files.h"
#include "data/token_file.h"
#include "data/utf8.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/thread_pool.h"

namespace sluice::data {
namespace {

constexpr int64_t kWaveBytes = 4 << 20;

struct Encoded {
  TokenizedChat chat;
  int64_t bytes = 0, num_replaced = 0;
};

absl::StatusOr<Encoded> EncodeLine(RawDocument raw, const TextFile& file, bool strict,
                                   const ChatTemplate& chat_template) {
  const auto at = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(file.path, ", line ", raw.line, ": ", what));
  };
  Encoded result;
  if (!IsValidUtf8(raw.bytes)) {
    if (strict) return at("the line has bytes that are not UTF-8");
    std::string replaced;
    result.num_replaced = AppendAsValidUtf8(raw.bytes, &replaced);
    raw.bytes = std::move(replaced);
  }
  result.bytes = static_cast<int64_t>(raw.bytes.size());
  const absl::StatusOr<Conversation> conversation = ParseConversation(raw.bytes);
  if (!conversation.ok()) return at(conversation.status().message());
  absl::StatusOr<TokenizedChat> chat = chat_template.Tokenize(*conversation);
  if (!chat.ok()) return at(chat.status().message());
  if (std::count(chat->is_target.begin(), chat->is_target.end(), 1) == 0)
    return at("there is nothing to learn: what the assistant says is empty");
  result.chat = *std::move(chat);
  return result;
}

absl::Status Add(const Encoded& encoded, TokenFileWriter& tokens, TokenFileWriter& mask,
                 SftCorpusResult* result) {
  const TokenizedChat& chat = encoded.chat;
  RETURN_IF_ERROR(tokens.AddDocument(chat.ids, encoded.bytes));
  const std::vector<int32_t> bits(chat.is_target.begin(), chat.is_target.end());
  RETURN_IF_ERROR(mask.AddDocument(bits, 0));
  ++result->conversations;
  result->tokens += static_cast<int64_t>(chat.ids.size());
  for (const int32_t bit : bits) result->targets += bit;
  result->text_bytes += encoded.bytes;
  result->num_replaced += encoded.num_replaced;
  return absl::OkStatus();
}

}  // namespace

std::string TargetMaskPath(const std::string& token_file) { return token_file + ".mask"; }

absl::StatusOr<SftCorpusResult> TokenizeConversations(const CorpusOptions& options,
                                                      const Tokenizer& tokenizer,
                                                      const ChatTemplate& chat_template,
                                                      const std::string& output) {
  ASSIGN_OR_RETURN(std::vector<TextFile> files, FindTextFiles(options.inputs));
  for (const TextFile& file : files)
    if (!file.json_lines)
      return absl::InvalidArgumentError(
          absl::StrCat("'", file.path, "' is no .jsonl file, wanted conversations in JSON lines"));
  const TokenFileInfo info = {.vocab_size = tokenizer.vocab_size(),
                              .eos_id = tokenizer.eos_id(),
                              .tokenizer_hash = tokenizer.hash()};
  ASSIGN_OR_RETURN(const auto tokens, TokenFileWriter::Create(output, info));
  ASSIGN_OR_RETURN(const auto mask, TokenFileWriter::Create(
                                        TargetMaskPath(output),
                                        {.vocab_size = 2, .tokenizer_hash = info.tokenizer_hash}));
  DocumentReader reader(std::move(files));
  kernels::ThreadPool pool(std::max(1, options.num_threads));
  SftCorpusResult result;
  while (true) {
    std::vector<RawDocument> raw;
    ASSIGN_OR_RETURN(const bool any, reader.ReadSome(kWaveBytes, &raw));
    if (!any) break;
    std::vector<absl::StatusOr<Encoded>> encoded(raw.size());
    pool.ParallelFor(static_cast<int64_t>(raw.size()), [&](int64_t i) {
      const TextFile& file = reader.files()[static_cast<size_t>(raw[i].file)];
      encoded[i] = EncodeLine(std::move(raw[i]), file, options.strict, chat_template);
    });
    for (const absl::StatusOr<Encoded>& one : encoded) {
      RETURN_IF_ERROR(one.status());  // of the first that failed
      RETURN_IF_ERROR(Add(*one, *tokens, *mask, &result));
    }
  }
  if (result.conversations == 0)
    return absl::InvalidArgumentError(
        absl::StrCat("there is no conversation in '", absl::StrJoin(options.inputs, "', '"), "'"));
  // The mask first: a token file that is there has one.
  RETURN_IF_ERROR(mask->Finish());
  RETURN_IF_ERROR(tokens->Finish());
  return result;
}

}  // namespace sluice::data
