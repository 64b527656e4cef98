// Reads the lines of a data set for fine-tuning.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "data/chat_template.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

absl::StatusOr<std::string> ParseContent(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return Wrong("a \"content\" is no string and no list");
  std::string text;
  for (const Json& part : content) {
    if (!part.is_object() || part.value("type", "") != "text")
      return Wrong("a \"content\" has a part that is not of the type \"text\"");
    text += part.at("text").get<std::string>();
  }
  return text;
}

absl::StatusOr<ChatMessage> ParseMessage(const Json& json) {
  if (!json.is_object() || !json.contains("role") || !json.contains("content"))
    return Wrong("a message has no \"role\" or no \"content\"");
  if (json.contains("tool_calls") && !json.at("tool_calls").empty())
    return Wrong("a message has \"tool_calls\", which is not supported");
  ChatMessage message;
  const std::string role = json.at("role").get<std::string>();
  if (role == "system") {
    message.role = ChatRole::kSystem;
  } else if (role == "user") {
    message.role = ChatRole::kUser;
  } else if (role == "assistant") {
    message.role = ChatRole::kAssistant;
  } else {
    return Wrong(
        absl::StrCat("a message has the role '", role, "', wanted system, user or assistant"));
  }
  ASSIGN_OR_RETURN(message.content, ParseContent(json.at("content")));
  if (json.contains("reasoning_content") && !json.at("reasoning_content").is_null())
    message.thoughts = json.at("reasoning_content").get<std::string>();
  if (json.contains("weight")) message.learn = json.at("weight").get<double>() != 0;
  return message;
}

absl::Status ParseMessages(const Json& list, bool learn, std::vector<ChatMessage>* out) {
  for (const Json& json : list) {
    ASSIGN_OR_RETURN(ChatMessage message, ParseMessage(json));
    message.learn = message.learn && learn;
    out->push_back(std::move(message));
  }
  return absl::OkStatus();
}

absl::StatusOr<Conversation> Parse(const Json& json) {
  if (!json.is_object()) return Wrong("not a JSON object");
  Conversation result;
  if (json.contains("messages")) {
    if (!json.at("messages").is_array()) return Wrong("\"messages\" is not a list");
    RETURN_IF_ERROR(ParseMessages(json.at("messages"), true, &result.messages));
    if (result.messages.empty()) return Wrong("\"messages\" is empty");
    return result;
  }
  if (!json.contains("prompt") || !json.contains("completion"))
    return Wrong("found neither \"messages\" nor \"prompt\" and \"completion\"");
  const Json &prompt = json.at("prompt"), &completion = json.at("completion");
  if (prompt.is_string() && completion.is_string()) {
    result.prompt = prompt.get<std::string>();
    result.completion = completion.get<std::string>();
    return result;
  }
  if (!prompt.is_array() || !completion.is_array() || prompt.empty())
    return Wrong("\"prompt\" and \"completion\" are neither two strings nor two lists of messages");
  RETURN_IF_ERROR(ParseMessages(prompt, false, &result.messages));
  RETURN_IF_ERROR(ParseMessages(completion, true, &result.messages));
  return result;
}

}  // namespace

absl::StatusOr<Conversation> ParseConversation(absl::string_view line) {
  try {
    return Parse(Json::parse(line.begin(), line.end()));
  } catch (const nlohmann::json::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
}

}  // namespace sluice::data
