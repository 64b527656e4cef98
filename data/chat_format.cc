// Sources: the chat_template in tokenizer_config.json of deepseek-ai/DeepSeek-V3, -V3.1, -R1 and
// -V2-Lite-Chat, Qwen/Qwen3-30B-A3B, mistralai/Mixtral-8x7B-Instruct-v0.1,
// allenai/OLMoE-1B-7B-0924-Instruct, moonshotai/Moonlight-16B-A3B-Instruct and
// Kimi-K2-Instruct-0905.
#include "data/chat_format.h"

#include <algorithm>

namespace sluice::data {
namespace {

ChatPiece Text(const char* text) { return {text, false}; }
ChatPiece Control(const char* token) { return {token, true}; }

// The bars of DeepSeek's control tokens are U+FF5C.
ChatFormat DeepSeekV3() {
  return {.name = "deepseek_v3",
          .begin = {Control(kChatBos)},
          .user = {.before = {Control("<\xef\xbd\x9cUser\xef\xbd\x9c>")}},
          .assistant = {.before = {Control("<\xef\xbd\x9c"
                                           "Assistant\xef\xbd\x9c>")},
                        .end = {Control(kChatEos)}},
          .systems_first = true};
}

ChatFormat DeepSeekR1() {
  ChatFormat format = DeepSeekV3();
  format.name = "deepseek_r1";
  format.thinking = ChatFormat::Thinking::kDeepSeekR1;
  return format;
}

ChatFormat DeepSeekV31() {
  ChatFormat format = DeepSeekV3();
  format.name = "deepseek_v3_1";
  format.assistant.before.push_back(Text("</think>"));
  format.thinking = ChatFormat::Thinking::kDeepSeekV31;
  return format;
}

ChatFormat DeepSeekV2() {
  return {.name = "deepseek_v2",
          .begin = {Control(kChatBos)},
          .system = {.end = {Text("\n\n")}},
          .user = {.before = {Text("User: ")}, .end = {Text("\n\n")}},
          .assistant = {.before = {Text("Assistant:")}, .prefix = " ", .end = {Control(kChatEos)}}};
}

TurnFormat ChatMlTurn(const char* role_line) {
  return {.before = {Control("<|im_start|>"), Text(role_line)},
          .end = {Control("<|im_end|>")},
          .after = {Text("\n")}};
}

ChatFormat ChatMl() {
  return {.name = "chatml",
          .system = ChatMlTurn("system\n"),
          .user = ChatMlTurn("user\n"),
          .assistant = ChatMlTurn("assistant\n")};
}

ChatFormat Qwen3() {
  ChatFormat format = ChatMl();
  format.name = "qwen3";
  format.thinking = ChatFormat::Thinking::kQwen3;
  return format;
}

ChatFormat Mixtral() {
  return {.name = "mixtral",
          .begin = {Control(kChatBos)},
          .user = {.before = {Text(" [INST] ")}, .end = {Text(" [/INST]")}},
          .assistant = {.prefix = " ", .end = {Control(kChatEos)}},
          .system_in_first_user = true,
          .alternates = true};
}

// Its role names are no tokens of the vocabulary, only text.
ChatFormat Olmoe() {
  return {
      .name = "olmoe",
      .begin = {Control(kChatBos)},
      .system = {.before = {Text("<|system|>\n")}, .end = {Text("\n")}},
      .user = {.before = {Text("<|user|>\n")}, .end = {Text("\n")}},
      .assistant = {
          .before = {Text("<|assistant|>\n")}, .end = {Control(kChatEos)}, .after = {Text("\n")}}};
}

TurnFormat MoonshotTurn(const char* token, const char* role) {
  return {.before = {Control(token), Text(role), Control("<|im_middle|>")},
          .end = {Control("<|im_end|>")}};
}

ChatFormat Moonlight() {
  return {.name = "moonlight",
          .default_system = {Control("<|im_system|>"), Text("system"), Control("<|im_middle|>"),
                             Text("You are a helpful assistant"), Control("<|im_end|>")},
          .system = MoonshotTurn("<|im_system|>", "system"),
          .user = MoonshotTurn("<|im_user|>", "user"),
          .assistant = MoonshotTurn("<|im_assistant|>", "assistant")};
}

ChatFormat KimiK2() {
  ChatFormat format = Moonlight();
  format.name = "kimi_k2";
  format.default_system[3] = Text("You are Kimi, an AI assistant created by Moonshot AI.");
  return format;
}

}  // namespace

const std::vector<ChatFormat>& ChatFormats() {
  static const std::vector<ChatFormat> formats = {
      DeepSeekV3(), DeepSeekV31(), DeepSeekR1(), DeepSeekV2(), ChatMl(),
      Qwen3(),      Mixtral(),     Olmoe(),      Moonlight(),  KimiK2()};
  return formats;
}

const ChatFormat* FindChatFormat(absl::string_view name) {
  for (const ChatFormat& format : ChatFormats())
    if (format.name == name) return &format;
  return nullptr;
}

}  // namespace sluice::data
