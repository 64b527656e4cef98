// Conversations as the model families write them: turns between control tokens, and which tokens a
// model learns to write. A template is known by name; no template language is read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "data/tokenizer.h"

namespace sluice::data {

enum class ChatRole : uint8_t { kSystem, kUser, kAssistant };

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;  // UTF-8
  std::string
      thoughts;       // before an assistant's content; may also stand in it, as <think>...</think>
  bool learn = true;  // of an assistant's message: is it a target?
};

// One line of a data set for supervised fine-tuning.
struct Conversation {
  std::vector<ChatMessage> messages;  // empty: the two below
  std::string prompt, completion;
};

// {"messages": [{"role": ..., "content": ...}, ...]} or {"prompt": ..., "completion": ...}; other
// fields are ignored. A content is a string or a list of {"type": "text", "text": ...}; thoughts
// are its "reasoning_content"; a message with "weight": 0 is not learned. Prompt and completion may
// be lists of messages, too. INVALID_ARGUMENT says what is wrong with the line. `line` must be
// UTF-8.
absl::StatusOr<Conversation> ParseConversation(absl::string_view line);

struct ChatOptions {
  bool learn_prompts = false;   // every token is a target, not only completions
  bool control_tokens = false;  // a control token spelled out in a message becomes its id
};

struct TokenizedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> is_target;  // [ids]: 1 where the token is learned; ids[0] never is
};

// Immutable; any thread.
class ChatTemplate {
 public:
  // deepseek_v3, deepseek_v3_1, deepseek_r1, deepseek_v2, chatml, qwen3, mixtral, olmoe, moonlight,
  // kimi_k2: the turns of these families' instruction-tuned releases, equal to what their Jinja
  // templates make of messages without tools. raw: prompt and completion one behind the other,
  // between the BOS and EOS of the tokenizer.
  static std::vector<std::string> Names();

  // `tokenizer` must outlive the result. INVALID_ARGUMENT: no such template, or a control token of
  // it is not in the vocabulary.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(const std::string& name,
                                                              const Tokenizer& tokenizer,
                                                              const ChatOptions& options);
  virtual ~ChatTemplate() = default;

  // The tokens of a conversation. Targets are what the assistant says and the token that ends its
  // turn. Prompt and completion are tokenized apart, as a model meets them.
  // INVALID_ARGUMENT: an order of roles or thoughts that the template does not have, or nothing to
  // learn.
  virtual absl::StatusOr<TokenizedChat> Tokenize(const Conversation& conversation) const = 0;
  // The token that ends an assistant's turn; -1 where there is none.
  virtual int32_t end_id() const = 0;
  // Up to where the assistant's next turn begins; nothing is a target.
  virtual absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const Conversation& conversation) const = 0;
};

}  // namespace sluice::data
