// Chat templates, conversations to token files with masks, packed sequences of conversations.
#include <gmock/gmock.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/chat_template.h"
#include "data/sft_corpus.h"
#include "data/sft_source.h"
#include "data/tokenizer.h"
#include "data_test_util.h"

namespace sluice::data {
namespace {

using Code = absl::StatusCode;
using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

constexpr char kUser[] = "<\xef\xbd\x9cUser\xef\xbd\x9c>";
constexpr char kAssistant[] =
    "<\xef\xbd\x9c"
    "Assistant\xef\xbd\x9c>";

// One token a byte, and control tokens of all the families.
std::unique_ptr<Tokenizer> ByteTokenizer(const TempDir& dir, const std::string& name = "t.json") {
  Json vocab = Json::object(), added = Json::array();
  for (int b = 0, next = 256; b < 256; ++b) {
    const bool same = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
    const int c = same ? b : next++;
    std::string utf8(1, static_cast<char>(c));
    if (c >= 0x80) utf8 = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    vocab[utf8] = b;
  }
  int id = 256;
  for (const char* content :
       {"<s>", "</s>", kUser, kAssistant, "<|im_start|>", "<|im_end|>", "<|im_system|>",
        "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<think>", "</think>"})
    added.push_back(
        {{"id", id++}, {"content", content}, {"special", id <= 258}, {"normalized", false}});
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const Json json = {{"added_tokens", added},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  auto tokenizer = LoadTokenizer(dir.Write(name, json.dump()));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// The text of a conversation with its targets in brackets.
std::string Marked(const std::string& format, const std::string& line,
                   const ChatOptions& options = {}) {
  const TempDir dir;
  const auto tokenizer = ByteTokenizer(dir);
  const auto conversation = ParseConversation(line);
  if (!conversation.ok()) return std::string(conversation.status().message());
  const auto chat_template = ChatTemplate::Create(format, *tokenizer, options);
  if (!chat_template.ok()) return std::string(chat_template.status().message());
  const auto chat = (*chat_template)->Tokenize(*conversation);
  if (!chat.ok()) return std::string(chat.status().message());
  std::vector<int32_t> ids;
  bool inside = false;
  for (size_t i = 0; i <= chat->ids.size(); ++i) {
    const bool learn = i < chat->ids.size() && chat->is_target[i] != 0;
    if (learn != inside) ids.push_back(learn ? '[' : ']');
    inside = learn;
    if (i < chat->ids.size()) ids.push_back(chat->ids[i]);
  }
  return *tokenizer->Decode(ids);
}

std::string Line(const std::vector<std::pair<std::string, std::string>>& turns) {
  Json messages = Json::array();
  for (const auto& [role, content] : turns)
    messages.push_back({{"role", role}, {"content", content}});
  return Json{{"messages", messages}}.dump();
}

const std::vector<std::pair<std::string, std::string>> kTurns = {
    {"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", "V"}, {"assistant", "B"}};

// The wanted texts are what the released Jinja templates give, with the brackets added.
TEST(ChatTemplate, WritesTheTurnsOfEachFamily) {
  const std::string user = kUser, assistant = kAssistant;
  const std::map<std::string, std::string> wanted = {
      {"deepseek_v3",
       "<s>S" + user + "U" + assistant + "[A</s>]" + user + "V" + assistant + "[B</s>]"},
      {"deepseek_r1",
       "<s>S" + user + "U" + assistant + "[A</s>]" + user + "V" + assistant + "[B</s>]"},
      {"deepseek_v3_1", "<s>S" + user + "U" + assistant + "</think>[A</s>]" + user + "V" +
                            assistant + "</think>[B</s>]"},
      {"deepseek_v2", "<s>S\n\nUser: U\n\nAssistant:[ A</s>]User: V\n\nAssistant:[ B</s>]"},
      {"chatml",
       "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
       "<|im_start|>assistant\n[A<|im_end|>]\n<|im_start|>user\nV<|im_end|>\n"
       "<|im_start|>assistant\n[B<|im_end|>]\n"},
      {"qwen3",
       "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
       "<|im_start|>assistant\n[A<|im_end|>]\n<|im_start|>user\nV<|im_end|>\n"
       "<|im_start|>assistant\n<think>\n\n</think>\n\n[B<|im_end|>]\n"},
      {"mixtral", "<s> [INST] S\n\nU [/INST][ A</s>] [INST] V [/INST][ B</s>]"},
      {"olmoe",
       "<s><|system|>\nS\n<|user|>\nU\n<|assistant|>\n[A</s>]\n<|user|>\nV\n<|assistant|>\n[B</"
       "s>]\n"},
      {"moonlight",
       "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>U<|im_end|>"
       "<|im_assistant|>assistant<|im_middle|>[A<|im_end|>]<|im_user|>user<|im_middle|>V<|im_end|>"
       "<|im_assistant|>assistant<|im_middle|>[B<|im_end|>]"}};
  for (const auto& [format, text] : wanted) EXPECT_EQ(Marked(format, Line(kTurns)), text) << format;
  EXPECT_EQ(Marked("kimi_k2", R"({"prompt": "U", "completion": "A"})"),
            "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI."
            "<|im_end|><|im_user|>user<|im_middle|>U<|im_end|>"
            "<|im_assistant|>assistant<|im_middle|>[A<|im_end|>]");
  EXPECT_EQ(Marked("raw", R"({"prompt": "U", "completion": "A"})"), "U[A</s>]");
  EXPECT_EQ(ChatTemplate::Names().size(), wanted.size() + 2);
}

TEST(ChatTemplate, ThoughtsOfEarlierTurnsAreLeftOut) {
  const std::string line = Line({{"user", "U"},
                                 {"assistant", "<think>\nx\n</think>\n\nA"},
                                 {"user", "V"},
                                 {"assistant", "<think>\ny\n</think>\n\nB"}});
  EXPECT_EQ(Marked("qwen3", line),
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n[A<|im_end|>]\n"
            "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\ny\n</think>\n\nB<|im_end|>]\n");
  EXPECT_EQ(Marked("deepseek_r1", line), std::string("<s>") + kUser + "U" + kAssistant +
                                             "[\n\nA</s>]" + kUser + "V" + kAssistant +
                                             "[<think>\ny\n</think>\n\nB</s>]");
  EXPECT_EQ(Marked("deepseek_v3_1", line), std::string("<s>") + kUser + "U" + kAssistant +
                                               "</think>[\n\nA</s>]" + kUser + "V" + kAssistant +
                                               "<think>[\ny\n</think>\n\nB</s>]");
}

TEST(ChatTemplate, ThoughtsMayStandBesideTheContent) {
  const std::string line = R"({"messages": [{"role": "user", "content": "U"},
      {"role": "assistant", "content": "A", "reasoning_content": "x"}]})";
  EXPECT_EQ(Marked("qwen3", line),
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
            "[<think>\nx\n</think>\n\nA<|im_end|>]\n");
  const std::string begin = std::string("<s>") + kUser + "U" + kAssistant;
  EXPECT_EQ(Marked("deepseek_r1", line), begin + "[<think>\nx\n</think>\n\nA</s>]");
  EXPECT_EQ(Marked("deepseek_v3_1", line), begin + "<think>[x</think>A</s>]");
}

// What transformers makes of the released templates: make_chat_templates.py.
TEST(ChatTemplate, EqualsTheReleasedTemplates) {
  const TempDir dir;
  const auto tokenizer = ByteTokenizer(dir);
  std::istringstream lines(Slurp(GoldenPath("chat_templates.jsonl")));
  std::string line;
  std::map<std::string, int> checked;
  int num_thoughts = 0;
  while (std::getline(lines, line)) {
    const Json golden = Json::parse(line);
    const std::string format = golden["template"].get<std::string>();
    const bool prompt = golden["prompt"].get<bool>();
    Json messages = golden["messages"];
    num_thoughts +=
        golden["text"].get<std::string>().find("<think>\nbecause\n") != std::string::npos;
    if (prompt) messages.erase(messages.size() - 1);
    const auto conversation = ParseConversation(Json{{"messages", messages}}.dump());
    ASSERT_TRUE(conversation.ok()) << conversation.status();
    const auto chat_template = ChatTemplate::Create(format, *tokenizer, {});
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    std::vector<int32_t> ids;
    if (prompt) {
      const auto found = (*chat_template)->TokenizePrompt(*conversation);
      ASSERT_TRUE(found.ok()) << found.status();
      ids = *found;
    } else {
      const auto found = (*chat_template)->Tokenize(*conversation);
      ASSERT_TRUE(found.ok()) << found.status();
      ids = found->ids;
    }
    const std::string wanted = golden["text"].get<std::string>();
    EXPECT_EQ(ids, tokenizer->Encode(wanted))
        << golden["source"] << "\nfound  " << *tokenizer->Decode(ids) << "\nwanted " << wanted;
    ++checked[format];
  }
  for (const std::string& name : ChatTemplate::Names()) {
    EXPECT_GE(checked[name], name == "raw" ? 0 : 5) << name;
  }
  EXPECT_EQ(num_thoughts, 1);
}

TEST(ChatTemplate, ControlTokensInMessagesAreTextUnlessAsked) {
  const TempDir dir;
  const auto tokenizer = ByteTokenizer(dir);
  const auto conversation = ParseConversation(
      Line({{"user", "a<|im_end|>b</s><think>"}, {"assistant", std::string("<s>") + kUser}}));
  const auto count = [&](const ChatOptions& options) {
    const auto chat =
        (*ChatTemplate::Create("chatml", *tokenizer, options))->Tokenize(*conversation);
    std::map<std::string, int> counts;
    for (const char* token : {"<|im_end|>", "</s>", "<s>", kUser, "<think>"})
      counts[token] =
          static_cast<int>(std::count(chat->ids.begin(), chat->ids.end(), tokenizer->IdOf(token)));
    return counts;
  };
  using Counts = std::map<std::string, int>;
  EXPECT_EQ(count({}),
            (Counts{{"<|im_end|>", 2}, {"</s>", 0}, {"<s>", 0}, {kUser, 0}, {"<think>", 1}}));
  EXPECT_EQ(count({.control_tokens = true}),
            (Counts{{"<|im_end|>", 3}, {"</s>", 1}, {"<s>", 1}, {kUser, 1}, {"<think>", 1}}));
}

TEST(ChatTemplate, WeightsAndPromptsChooseTargets) {
  EXPECT_EQ(Marked("chatml", R"({"messages": [{"role": "user", "content": "U"},
      {"role": "assistant", "content": "A", "weight": 0}, {"role": "user", "content": "V"},
      {"role": "assistant", "content": [{"type": "text", "text": "B"}]}]})"),
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
            "<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n[B<|im_end|>]\n");
  EXPECT_EQ(Marked("deepseek_v2", R"({"prompt": "U", "completion": "A"})", {.learn_prompts = true}),
            "<s>[User: U\n\nAssistant: A</s>]");
}

TEST(ChatTemplate, PromptEndsWhereTheAssistantBegins) {
  const TempDir dir;
  const auto tokenizer = ByteTokenizer(dir);
  for (const auto& [format, text] : std::map<std::string, std::string>{
           {"chatml", "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"},
           {"deepseek_v2", "<s>User: U\n\nAssistant:"},
           {"mixtral", "<s> [INST] U [/INST]"},
           {"olmoe", "<s><|user|>\nU\n<|assistant|>\n"},
           {"raw", "U"}}) {
    const auto ids =
        (*ChatTemplate::Create(format, *tokenizer, {}))->TokenizePrompt({.prompt = "U"});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*tokenizer->Decode(*ids), text);
  }
}

TEST(ChatTemplate, KnowsWhatEndsAnAnswer) {
  const TempDir dir;
  const auto tokenizer = ByteTokenizer(dir);
  for (const auto& [format, token] : std::map<std::string, std::string>{{"chatml", "<|im_end|>"},
                                                                        {"kimi_k2", "<|im_end|>"},
                                                                        {"mixtral", "</s>"},
                                                                        {"raw", "</s>"}})
    EXPECT_EQ((*ChatTemplate::Create(format, *tokenizer, {}))->end_id(), tokenizer->IdOf(token));
}

TEST(ChatTemplate, WhatIsNotAConversationIsRefused) {
  for (const auto& [line, message] : std::vector<std::pair<std::string, std::string>>{
           {"[1]", "not a JSON object"},
           {R"({"text": "x"})", "neither \"messages\""},
           {R"({"messages": []})", "empty"},
           {R"({"messages": [{"role": "tool", "content": "x"}]})", "role 'tool'"},
           {R"({"messages": [{"role": "user"}]})", "no \"content\""},
           {R"({"messages": [{"role": "user", "content": 3}]})", "no string"},
           {R"({"prompt": "x", "completion": 3})", "neither two strings"},
           {R"({"messages": [{"role": "user", "content": "x"},
                             {"role": "assistant", "content": "x", "reasoning_content": "y"}]})",
            "\"reasoning_content\", for which the template mixtral has no place"},
           {Line({{"user", "x"}}), "no assistant message"},
           {Line({{"assistant", "x"}}), "wants 'user'"}}) {
    EXPECT_THAT(Marked("mixtral", line), ::testing::HasSubstr(message)) << line;
  }
  EXPECT_THAT(Marked("raw", Line(kTurns)), ::testing::HasSubstr("no turns"));
  EXPECT_THAT(Marked("llama9", Line(kTurns)), ::testing::HasSubstr("'llama9' is not known"));
}

// Writes conversations whose completions have the given lengths, and reads them as samples of L.
class SftSourceTest : public ::testing::Test {
 protected:
  // Conversation i: prompt "p", completion of `lengths[i]` letters 'a' + i % 26: lengths[i] + 2
  // tokens.
  std::string Write(const std::vector<int>& lengths) {
    std::string text;
    for (size_t i = 0; i < lengths.size(); ++i)
      text += Json{{"prompt", "p"},
                   {"completion", std::string(lengths[i], static_cast<char>('a' + i % 26))}}
                  .dump() +
              "\n";
    const auto raw = ChatTemplate::Create("raw", *tokenizer_, {});
    const auto result =
        TokenizeConversations({.inputs = {dir_.Write("c.jsonl", text)}, .num_threads = 2},
                              *tokenizer_, **raw, dir_.File("c.tokens"));
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->conversations, static_cast<int64_t>(lengths.size()));
    return dir_.File("c.tokens");
  }
  const TempDir dir_;
  const std::unique_ptr<Tokenizer> tokenizer_ = ByteTokenizer(dir_);
};

TEST_F(SftSourceTest, EachConversationOnceAnEpochWithItsMask) {
  std::vector<int> lengths;
  for (int i = 0; i < 200; ++i) lengths.push_back(1 + (i * 37) % 29);
  const std::string path = Write(lengths);
  const auto source = SftSource::Create({.paths = {path}, .sequence_length = 31, .seed = 3});
  ASSERT_TRUE(source.ok()) << source.status();
  const SftPacking& packing = (*source)->packing();
  EXPECT_EQ(packing.conversations, 200);
  EXPECT_EQ(packing.num_cut, 0);
  // Best fit leaves little room: the bound is 1.22 times the least number of rows plus one.
  EXPECT_LE(packing.sequences, 1 + packing.tokens * 122 / 100 / 32);
  const auto rows = static_cast<int>(packing.sequences);
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<int32_t> tokens(static_cast<size_t>(rows) * 32);
    std::vector<uint8_t> mask(tokens.size());
    DocumentStarts starts;
    ASSERT_TRUE((*source)->Read(epoch * rows, rows, tokens, &starts).ok());
    ASSERT_TRUE((*source)->ReadTargetMask(epoch * rows, rows, mask).ok());
    std::map<std::pair<int, int>, int> seen, wanted;  // (letter, length)
    for (size_t i = 0; i < lengths.size(); ++i) ++wanted[{'a' + i % 26, lengths[i]}];
    for (int r = 0; r < rows; ++r) {
      const auto places = starts.Of(r);
      for (size_t d = 0; d < places.size(); ++d) {
        const int begin = 32 * r + places[d];
        const int end = 32 * r + (d + 1 < places.size() ? places[d + 1] : 32);
        const int learned = std::accumulate(mask.begin() + begin, mask.begin() + end, 0);
        if (tokens[begin] != 'p') {  // padding: only last
          EXPECT_EQ(d + 1, places.size());
          EXPECT_EQ(learned, 0);
          EXPECT_EQ(std::count(tokens.begin() + begin, tokens.begin() + end, 257), end - begin);
          continue;
        }
        EXPECT_EQ(mask[begin], 0);
        EXPECT_EQ(learned, end - begin - 1);
        EXPECT_EQ(tokens[end - 1], 257);
        ++seen[{tokens[begin + 1], end - begin - 2}];
      }
    }
    EXPECT_EQ(seen, wanted);
  }
}

TEST_F(SftSourceTest, ASampleIsAFunctionOfSeedAndNumber) {
  std::vector<int> lengths;
  for (int i = 0; i < 60; ++i) lengths.push_back(1 + (i * 17) % 13);
  const std::string path = Write(lengths);
  const auto read = [&](uint64_t seed, int64_t first, int count) {
    const auto source = SftSource::Create({.paths = {path}, .sequence_length = 15, .seed = seed});
    std::vector<int32_t> tokens(static_cast<size_t>(count) * 16);
    EXPECT_TRUE((*source)->Read(first, count, tokens).ok());
    return tokens;
  };
  const std::vector<int32_t> many = read(1, 5, 40);
  EXPECT_THAT(read(1, 17, 1), ElementsAreArray(many.begin() + 12 * 16, many.begin() + 13 * 16));
  EXPECT_NE(read(2, 5, 40), many);
}

TEST_F(SftSourceTest, LongConversationsAreCutAndCounted) {
  const std::string path = Write({3, 40, 2});
  const auto source = SftSource::Create({.paths = {path}, .sequence_length = 7, .shuffle = false});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ((*source)->packing().num_cut, 1);
  EXPECT_EQ((*source)->packing().sequences, 3);  // 8 of 42, 5, 4: no two fit in 8
  std::vector<int32_t> tokens(8);
  std::vector<uint8_t> mask(8);
  ASSERT_TRUE((*source)->Read(0, 1, tokens).ok());
  ASSERT_TRUE((*source)->ReadTargetMask(0, 1, mask).ok());
  EXPECT_THAT(tokens, ElementsAre('p', 'b', 'b', 'b', 'b', 'b', 'b', 'b'));
  EXPECT_THAT(mask, ElementsAre(0, 1, 1, 1, 1, 1, 1, 1));
  // Without repetition, what follows the last sample is padding.
  const auto once =
      SftSource::Create({.paths = {path}, .sequence_length = 7, .shuffle = false, .repeat = false});
  ASSERT_TRUE((*once)->Read(3, 1, tokens).ok());
  ASSERT_TRUE((*once)->ReadTargetMask(3, 1, mask).ok());
  EXPECT_THAT(tokens, ::testing::Each(257));
  EXPECT_THAT(mask, ::testing::Each(0));
  EXPECT_EQ((*once)->NumTargets(3), 0);
}

TEST_F(SftSourceTest, BadInputIsRefusedByName) {
  const auto raw = ChatTemplate::Create("raw", *tokenizer_, {});
  const auto tokenize = [&](const std::string& name, const std::string& text, bool strict = false) {
    return TokenizeConversations(
               {.inputs = {dir_.Write(name, text)}, .num_threads = 1, .strict = strict},
               *tokenizer_, **raw, dir_.File("bad.tokens"))
        .status();
  };
  const std::string good = R"({"prompt": "a", "completion": "b"})";
  ExpectStatus(tokenize("x.txt", "text"), Code::kInvalidArgument, {"x.txt", "no .jsonl"});
  ExpectStatus(tokenize("x.jsonl", good + "\n{}\n"), Code::kInvalidArgument,
               {"x.jsonl, line 2", "neither \"messages\""});
  ExpectStatus(tokenize("y.jsonl", "\n"), Code::kInvalidArgument, {"no conversation"});
  const std::string latin = "{\"prompt\": \"\xe9\", \"completion\": \"b\"}";
  ExpectStatus(tokenize("z.jsonl", latin, /*strict=*/true), Code::kInvalidArgument,
               {"z.jsonl, line 1", "not UTF-8"});
  EXPECT_TRUE(tokenize("z.jsonl", latin).ok());
  EXPECT_FALSE(std::filesystem::exists(dir_.File("no.tokens.mask")));
  WriteTokens(dir_.File("no.tokens"), {4, 5});
  ExpectStatus(
      SftSource::Create({.paths = {dir_.File("no.tokens")}, .sequence_length = 4}).status(),
      Code::kNotFound, {"no.tokens.mask"});
}

}  // namespace
}  // namespace sluice::data
