#include "data/chat_template.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "data/chat_format.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

constexpr absl::string_view kThink = "<think>", kEndThink = "</think>";

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

// Joins pieces to runs of text between control tokens and tokenizes each run in one go, cut only
// where what is learned begins or ends.
class ChatWriter {
 public:
  ChatWriter(const Tokenizer& tokenizer, const ChatOptions& options)
      : tokenizer_(tokenizer), options_(options) {}

  void Text(absl::string_view text, bool learn) {
    if (text.empty()) return;
    if (learn != run_learned_) Flush();
    run_learned_ = learn;
    absl::StrAppend(&run_, text);
  }
  void Control(int32_t id, bool learn) {
    Flush();
    Put(id, learn);
    place_ = TextPlace::kAfterToken;
  }
  TokenizedChat Finish() {
    Flush();
    if (!result_.is_target.empty()) result_.is_target[0] = 0;  // no input stands before it
    return std::move(result_);
  }

 private:
  void Put(int32_t id, bool learn) {
    result_.ids.push_back(id);
    result_.is_target.push_back(learn || options_.learn_prompts ? 1 : 0);
  }
  void Flush() {
    if (run_.empty()) return;
    const AddedTokens added = options_.control_tokens ? AddedTokens::kAll : AddedTokens::kNoControl;
    for (const int32_t id : tokenizer_.Encode(run_, {.added_tokens = added, .place = place_}))
      Put(id, run_learned_);
    run_.clear();
    place_ = TextPlace::kContinues;
  }

  const Tokenizer& tokenizer_;
  const ChatOptions options_;
  std::string run_;
  bool run_learned_ = false;
  TextPlace place_ = TextPlace::kStart;
  TokenizedChat result_;
};

std::string RoleName(ChatRole role) {
  return role == ChatRole::kSystem ? "system" : role == ChatRole::kUser ? "user" : "assistant";
}

class FormatTemplate : public ChatTemplate {
 public:
  FormatTemplate(const ChatFormat& format, const Tokenizer& tokenizer, const ChatOptions& options)
      : format_(format), tokenizer_(tokenizer), options_(options) {}

  absl::Status CheckTokens() const {
    std::vector<ChatPiece> all = format_.begin;
    const auto add = [&all](const std::vector<ChatPiece>& pieces) {
      all.insert(all.end(), pieces.begin(), pieces.end());
    };
    add(format_.default_system);
    for (const TurnFormat* turn : {&format_.system, &format_.user, &format_.assistant})
      add(turn->before), add(turn->end), add(turn->after);
    for (const ChatPiece& piece : all)
      if (piece.control && IdOf(piece) < 0)
        return Wrong(absl::StrCat("the chat template ", format_.name, " needs the token '",
                                  piece.content, "', which the tokenizer lacks"));
    return absl::OkStatus();
  }

  absl::StatusOr<TokenizedChat> Tokenize(const Conversation& conversation) const override {
    return Run(conversation, /*open=*/false);
  }

  int32_t end_id() const override { return IdOf(format_.assistant.end.front()); }

  absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const Conversation& conversation) const override {
    ASSIGN_OR_RETURN(TokenizedChat chat, Run(conversation, /*open=*/true));
    return std::move(chat.ids);
  }

 private:
  int32_t IdOf(const ChatPiece& piece) const {
    if (piece.content == kChatEos) return tokenizer_.eos_id();
    if (piece.content != kChatBos) return tokenizer_.IdOf(piece.content);
    return tokenizer_.bos_id() >= 0 ? tokenizer_.bos_id() : tokenizer_.eos_id();
  }

  void Put(const std::vector<ChatPiece>& pieces, bool learn, ChatWriter& out) const {
    for (const ChatPiece& piece : pieces) {
      if (piece.control) {
        out.Control(IdOf(piece), learn);
      } else {
        out.Text(piece.content, learn);
      }
    }
  }

  // As the templates with thoughts look for them, or write them.
  absl::Status PutThoughtsInContent(ChatMessage& message) const {
    if (message.thoughts.empty()) return absl::OkStatus();
    if (message.role != ChatRole::kAssistant || format_.thinking == ChatFormat::Thinking::kNone)
      return Wrong(absl::StrCat("a message of the role '", RoleName(message.role),
                                "' has \"reasoning_content\", for which the template ",
                                format_.name, " has no place"));
    const bool lines = format_.thinking != ChatFormat::Thinking::kDeepSeekV31;
    message.content = absl::StrCat(kThink, lines ? "\n" : "", message.thoughts, lines ? "\n" : "",
                                   kEndThink, lines ? "\n\n" : "", message.content);
    message.thoughts.clear();
    return absl::OkStatus();
  }

  // Moves system messages where the format wants them; what is left to be written as turns.
  absl::StatusOr<std::vector<ChatMessage>> Arrange(const Conversation& conversation,
                                                   ChatWriter& out) const {
    std::vector<ChatMessage> messages = conversation.messages;
    for (ChatMessage& message : messages) RETURN_IF_ERROR(PutThoughtsInContent(message));
    if (messages.empty()) {
      messages = {{.role = ChatRole::kUser, .content = conversation.prompt},
                  {.role = ChatRole::kAssistant, .content = conversation.completion}};
    }
    Put(format_.begin, false, out);
    if (messages[0].role != ChatRole::kSystem) Put(format_.default_system, false, out);
    if (format_.systems_first) {
      std::string system, separator;
      std::erase_if(messages, [&](const ChatMessage& message) {
        if (message.role != ChatRole::kSystem) return false;
        absl::StrAppend(&system, separator, message.content);
        separator = "\n\n";
        return true;
      });
      out.Text(system, false);
    }
    if (format_.system_in_first_user && messages[0].role == ChatRole::kSystem) {
      if (messages.size() < 2 || messages[1].role != ChatRole::kUser)
        return Wrong("no user message follows the system message");
      messages[1].content = absl::StrCat(messages[0].content, "\n\n", messages[1].content);
      messages.erase(messages.begin());
    }
    for (size_t i = 0; format_.alternates && i < messages.size(); ++i) {
      const ChatRole wanted = i % 2 == 0 ? ChatRole::kUser : ChatRole::kAssistant;
      if (messages[i].role != wanted)
        return Wrong(absl::StrCat("message ", i + 1, " is of the role '",
                                  RoleName(messages[i].role), "', the template ", format_.name,
                                  " wants '", RoleName(wanted), "' there"));
    }
    return messages;
  }

  absl::StatusOr<TokenizedChat> Run(const Conversation& conversation, bool open) const {
    ChatWriter out(tokenizer_, options_);
    Conversation given = conversation;
    if (open && given.messages.empty())
      given.messages = {{.role = ChatRole::kUser, .content = given.prompt}};
    ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, Arrange(given, out));
    size_t last_user = 0;
    bool any = open || options_.learn_prompts;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].role == ChatRole::kUser) last_user = i;
      any = any || (messages[i].role == ChatRole::kAssistant && messages[i].learn);
    }
    if (!any) return Wrong("there is no assistant message to learn");
    for (size_t i = 0; i < messages.size(); ++i) {
      const bool last = i + 1 == messages.size();
      if (messages[i].role == ChatRole::kAssistant) {
        PutAssistant(messages[i], {.last = last, .answers_last_user = i > last_user}, out);
      } else {
        const TurnFormat& turn =
            messages[i].role == ChatRole::kSystem ? format_.system : format_.user;
        Put(turn.before, false, out);
        out.Text(messages[i].content, false);
        Put(turn.end, false, out);
        Put(turn.after, false, out);
      }
    }
    if (open) Put(format_.assistant.before, false, out);
    return out.Finish();
  }

  struct Place {
    bool last = false, answers_last_user = false;
  };

  void PutAssistant(const ChatMessage& message, Place place, ChatWriter& out) const {
    const TurnFormat& turn = format_.assistant;
    std::string content = message.content;
    if (format_.thinking == ChatFormat::Thinking::kDeepSeekV31) {
      PutDeepSeekV31(content, place, message.learn, out);
      return;
    }
    Put(turn.before, false, out);
    if (format_.thinking == ChatFormat::Thinking::kDeepSeekR1) content = R1Content(content, place);
    if (format_.thinking == ChatFormat::Thinking::kQwen3)
      content = Qwen3Content(content, place, message.learn, out);
    out.Text(absl::StrCat(turn.prefix, content), message.learn);
    Put(turn.end, message.learn, out);
    Put(turn.after, false, out);
  }

  // Thoughts of earlier turns are left out. (The released template drops the last turn's as well,
  // since it only ever writes prompts; a model that shall think must learn them.)
  static std::string R1Content(const std::string& content, Place place) {
    const size_t end = absl::string_view(content).rfind(kEndThink);
    return place.last || end == std::string::npos ? content
                                                  : content.substr(end + kEndThink.size());
  }

  // An answer without thoughts follows a closed block of them, which is the prompt's and not
  // learned. Thoughts of the last answer are learned behind the "<think>" of a prompt that asks for
  // them.
  void PutDeepSeekV31(const std::string& content, Place place, bool learn, ChatWriter& out) const {
    const TurnFormat& turn = format_.assistant;
    if (place.last && absl::StartsWith(content, kThink)) {
      Put({turn.before[0]}, false, out);
      out.Text(kThink, false);
      out.Text(content.substr(kThink.size()), learn);
    } else {
      Put(turn.before, false, out);
      const size_t end = absl::string_view(content).find(kEndThink);
      out.Text(end == std::string::npos ? content : content.substr(end + kEndThink.size()), learn);
    }
    Put(turn.end, learn, out);
  }

  // As the released template: thoughts stand only in what answers the last user message, and the
  // last message always has a block of them. An empty one belongs to the prompt (the template's
  // enable_thinking = false), so it is not learned.
  static std::string Qwen3Content(const std::string& content, Place place, bool learn,
                                  ChatWriter& out) {
    std::string thoughts, answer = content;
    if (const size_t first = absl::string_view(content).find(kEndThink);
        first != std::string::npos) {
      absl::string_view before = absl::string_view(content).substr(0, first);
      while (absl::ConsumeSuffix(&before, "\n")) {
      }
      if (const size_t begin = before.rfind(kThink); begin != absl::string_view::npos)
        before.remove_prefix(begin + kThink.size());
      while (absl::ConsumePrefix(&before, "\n")) {
      }
      thoughts = std::string(before);
      answer = content.substr(absl::string_view(content).rfind(kEndThink) + kEndThink.size());
      answer.erase(0, answer.find_first_not_of('\n'));
    }
    if (!place.answers_last_user || (!place.last && thoughts.empty())) return answer;
    answer.erase(0, answer.find_first_not_of('\n'));
    if (thoughts.empty()) {
      out.Text(absl::StrCat(kThink, "\n\n", kEndThink, "\n\n"), false);
      return answer;
    }
    out.Text(absl::StrCat(kThink, "\n", thoughts, "\n", kEndThink, "\n\n"), learn);
    return answer;
  }

  const ChatFormat& format_;  // of ChatFormats()
  const Tokenizer& tokenizer_;
  const ChatOptions options_;
};

class RawTemplate : public ChatTemplate {
 public:
  RawTemplate(const Tokenizer& tokenizer, const ChatOptions& options)
      : tokenizer_(tokenizer), options_(options) {}

  absl::StatusOr<TokenizedChat> Tokenize(const Conversation& conversation) const override {
    if (!conversation.messages.empty())
      return Wrong(
          "the template raw has no turns for \"messages\", wanted \"prompt\" and "
          "\"completion\"");
    ChatWriter out(tokenizer_, options_);
    const std::vector<int32_t> begin = tokenizer_.EncodeWithSpecialTokens("");
    if (!begin.empty() && begin[0] == tokenizer_.bos_id()) out.Control(begin[0], false);
    out.Text(conversation.prompt, false);
    out.Text(conversation.completion, true);
    if (tokenizer_.eos_id() >= 0) out.Control(tokenizer_.eos_id(), true);
    return out.Finish();
  }

  int32_t end_id() const override { return tokenizer_.eos_id(); }

  absl::StatusOr<std::vector<int32_t>> TokenizePrompt(
      const Conversation& conversation) const override {
    Conversation prompt = conversation;
    prompt.completion.clear();
    ASSIGN_OR_RETURN(TokenizedChat chat, Tokenize(prompt));
    if (tokenizer_.eos_id() >= 0) chat.ids.pop_back();
    return std::move(chat.ids);
  }

 private:
  const Tokenizer& tokenizer_;
  const ChatOptions options_;
};

}  // namespace

std::vector<std::string> ChatTemplate::Names() {
  std::vector<std::string> names;
  for (const ChatFormat& format : ChatFormats()) names.push_back(format.name);
  names.emplace_back("raw");
  return names;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(const std::string& name,
                                                                   const Tokenizer& tokenizer,
                                                                   const ChatOptions& options) {
  if (name == "raw") return std::make_unique<RawTemplate>(tokenizer, options);
  const ChatFormat* format = FindChatFormat(name);
  if (format == nullptr)
    return Wrong(absl::StrCat("the chat template '", name, "' is not known, wanted one of ",
                              absl::StrJoin(Names(), ", ")));
  auto result = std::make_unique<FormatTemplate>(*format, tokenizer, options);
  RETURN_IF_ERROR(result->CheckTokens());
  return result;
}

}  // namespace sluice::data
