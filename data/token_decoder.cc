#include "data/token_decoder.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "data/utf8.h"

namespace sluice::data {
namespace {

using Tokens = std::vector<std::string>;

// The byte of a token <0xXX>.
std::optional<char> ByteOf(absl::string_view token) {
  int byte = 0;
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>') return std::nullopt;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) return std::nullopt;
    byte = byte * 16 + digit;
  }
  return static_cast<char>(byte);
}

// Runs of byte tokens become text; a run that is not UTF-8 as a whole becomes one U+FFFD a byte.
Tokens ByteFallback(const Tokens& tokens) {
  Tokens result;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (IsValidUtf8(run)) {
      result.push_back(run);
    } else {
      for (size_t i = 0; i < run.size(); ++i) result.emplace_back("\xef\xbf\xbd");
    }
    run.clear();
  };
  for (const std::string& token : tokens) {
    if (const auto byte = ByteOf(token)) {
      run.push_back(*byte);
    } else {
      flush();
      result.push_back(token);
    }
  }
  flush();
  return result;
}

std::string FromBytes(const Tokens& tokens) {
  std::string bytes, text;
  for (const std::string& token : tokens) bytes += FromByteLevel(token).value_or(token);
  AppendAsValidUtf8(bytes, &text);
  return text;
}

std::string Stripped(absl::string_view token, const DecoderStep& step) {
  for (int i = 0; i < step.start && absl::StartsWith(token, step.text); ++i)
    token.remove_prefix(step.text.size());
  for (int i = 0; i < step.stop && absl::EndsWith(token, step.text); ++i)
    token.remove_suffix(step.text.size());
  return std::string(token);
}

}  // namespace

bool TokenDecoder::only_bytes() const {
  return steps_.size() == 1 && steps_[0].kind == DecoderStep::Kind::kByteLevel;
}

std::string TokenDecoder::Decode(Tokens tokens) const {
  for (const DecoderStep& step : steps_) {
    switch (step.kind) {
      case DecoderStep::Kind::kByteLevel:
        tokens = {FromBytes(tokens)};
        break;
      case DecoderStep::Kind::kByteFallback:
        tokens = ByteFallback(tokens);
        break;
      case DecoderStep::Kind::kFuse:
        tokens = {absl::StrJoin(tokens, "")};
        break;
      case DecoderStep::Kind::kReplace:
        for (std::string& token : tokens)
          token = absl::StrReplaceAll(token, {{step.text, step.content}});
        break;
      case DecoderStep::Kind::kStrip:
        for (std::string& token : tokens) token = Stripped(token, step);
        break;
      case DecoderStep::Kind::kMetaspace:
        for (size_t i = 0; i < tokens.size(); ++i)
          tokens[i] =
              absl::StrReplaceAll(tokens[i], {{step.text, i == 0 && step.drops_first ? "" : " "}});
        break;
      case DecoderStep::Kind::kSpaces:
        tokens = {absl::StrJoin(tokens, " ")};
        break;
    }
  }
  return absl::StrJoin(tokens, "");
}

}  // namespace sluice::data
