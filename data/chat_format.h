// The turn formats of the families as plain data.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::data {

// A piece of a format: text, or a control token by its content. kBos and kEos stand for the
// tokenizer's own.
struct ChatPiece {
  std::string content;
  bool control = false;
};
inline constexpr char kChatBos[] = "BOS";
inline constexpr char kChatEos[] = "EOS";

// [before] prefix + content [end] [after]
struct TurnFormat {
  std::vector<ChatPiece> before;
  std::string prefix;            // of the completion, so learned with it
  std::vector<ChatPiece> end;    // learned with an assistant's content
  std::vector<ChatPiece> after;  // not learned
};

struct ChatFormat {
  std::string name;
  std::vector<ChatPiece> begin;
  std::vector<ChatPiece> default_system;  // if the first message is not the system's
  TurnFormat system, user, assistant;
  bool systems_first = false;         // all system messages, "\n\n" between them, begin the text
  bool system_in_first_user = false;  // system + "\n\n" + the first user message is that message
  bool alternates = false;            // user and assistant take turns, the user begins
  enum class Thinking { kNone, kDeepSeekR1, kDeepSeekV31, kQwen3 } thinking = Thinking::kNone;
};

// Null if there is no such format.
const ChatFormat* FindChatFormat(absl::string_view name);
const std::vector<ChatFormat>& ChatFormats();

}  // namespace sluice::data
