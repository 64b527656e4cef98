// The tokenizer of a tokenizer.json: added tokens, normal form, words, merges.
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "data/added_tokens.h"
#include "data/bpe_model.h"
#include "data/mapped_file.h"
#include "data/normalizer.h"
#include "data/pre_tokenizer.h"
#include "data/sha256.h"
#include "data/text_cutter.h"
#include "data/tiktoken.h"
#include "data/token_decoder.h"
#include "data/tokenizer.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

// The usual names, where no tokenizer_config.json says it. The vertical bars of DeepSeek's are
// U+FF5C, the low lines U+2581.
constexpr absl::string_view kEosNames[] = {"<|endoftext|>",
                                           "<|end_of_text|>",
                                           "</s>",
                                           "<eos>",
                                           "<|eos|>",
                                           "[EOS]",
                                           "<\xef\xbd\x9c"
                                           "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"};
constexpr absl::string_view kBosNames[] = {"<|begin_of_text|>",
                                           "<s>",
                                           "<bos>",
                                           "<|bos|>",
                                           "[BOS]",
                                           "<|startoftext|>",
                                           "<\xef\xbd\x9c"
                                           "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"};

class BpeTokenizer : public Tokenizer {
 public:
  struct Parts {
    std::unique_ptr<Normalizer> normalizer;
    std::unique_ptr<PreTokenizer> pre_tokenizer;
    std::unique_ptr<BpeModel> model;
    std::string hash;
  };

  BpeTokenizer(const TokenizerSpec& spec, Parts parts)
      : parts_(std::move(parts)),
        decoder_(spec.decoder),
        cuts_long_texts_(spec.cuts_long_texts),
        prefix_ids_(spec.prefix_ids),
        suffix_ids_(spec.suffix_ids),
        finders_{Finders(spec, *parts_.normalizer, AddedTokens::kAll),
                 Finders(spec, *parts_.normalizer, AddedTokens::kNoControl),
                 Finders(spec, *parts_.normalizer, AddedTokens::kNone)} {
    FillTokenTable(spec);
  }

  using Tokenizer::Encode;
  std::vector<int32_t> Encode(absl::string_view utf8, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    if (!cuts_long_texts_ || utf8.size() <= kUncutBytes) {
      AppendIds(utf8, options, &ids);
      return ids;
    }
    std::string valid;
    AppendAsValidUtf8(utf8, &valid);
    for (const absl::string_view piece : CutLongText(valid)) AppendIds(piece, options, &ids);
    return ids;
  }

  std::vector<int32_t> EncodeWithSpecialTokens(absl::string_view utf8) const override {
    std::vector<int32_t> ids = prefix_ids_;
    const std::vector<int32_t> text_ids = Encode(utf8, {});
    ids.insert(ids.end(), text_ids.begin(), text_ids.end());
    ids.insert(ids.end(), suffix_ids_.begin(), suffix_ids_.end());
    return ids;
  }

  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     bool skip_special_tokens) const override {
    const bool only_bytes = decoder_.only_bytes();
    std::string bytes;
    std::vector<std::string> tokens;
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size() || !tokens_[id].exists)
        return absl::InvalidArgumentError(absl::StrCat(
            "token id ", id, " is not in the vocabulary of ", vocab_size(), " tokens"));
      if (skip_special_tokens && tokens_[id].special) continue;
      if (only_bytes) {
        bytes += tokens_[id].text;
      } else {
        tokens.push_back(tokens_[id].text);
      }
    }
    if (!only_bytes) return decoder_.Decode(std::move(tokens));
    std::string text;
    AppendAsValidUtf8(bytes, &text);
    return text;
  }

  int vocab_size() const override { return static_cast<int>(tokens_.size()); }
  int eos_id() const override { return eos_id_; }
  int bos_id() const override { return bos_id_; }
  std::string hash() const override { return parts_.hash; }
  int IdOf(absl::string_view token) const override {
    const auto at = added_ids_.find(std::string(token));
    return at == added_ids_.end() ? -1 : at->second;
  }

  absl::Status ApplyConfig(const TokenizerConfig& config) {
    const auto set = [this](const std::string& token, int* id) -> absl::Status {
      if (token.empty()) return absl::OkStatus();
      *id = IdOf(token);
      if (*id >= 0) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json names the token '",
                                                     token, "', which tokenizer.json lacks"));
    };
    RETURN_IF_ERROR(set(config.bos_token, &bos_id_));
    RETURN_IF_ERROR(set(config.eos_token, &eos_id_));
    if (config.add_bos_token && prefix_ids_.empty() && bos_id_ >= 0) prefix_ids_ = {bos_id_};
    if (config.add_eos_token && suffix_ids_.empty() && eos_id_ >= 0) suffix_ids_ = {eos_id_};
    return absl::OkStatus();
  }

 private:
  struct Token {
    std::string text;  // its bytes if the decoder is only_bytes, else as written
    bool exists = false, special = false;
  };
  struct Scratch {
    PreTokenizer::Scratch pre_tokenizer;
    BpeModel::Scratch model;
  };

  // What is looked for before and after normalisation.
  struct Finders {
    Finders(const TokenizerSpec& spec, const Normalizer& normalizer, AddedTokens which)
        : raw(Select(spec, normalizer, which, /*normalized=*/false)),
          normalized(Select(spec, normalizer, which, /*normalized=*/true)) {}
    AddedTokenFinder raw, normalized;
  };

  static bool IsControl(const AddedToken& token) {
    return token.special || absl::StartsWith(token.content, "<|") ||
           absl::StartsWith(token.content, "<\xef\xbd\x9c");
  }

  static std::vector<AddedToken> Select(const TokenizerSpec& spec, const Normalizer& normalizer,
                                        AddedTokens which, bool normalized) {
    std::vector<AddedToken> tokens;
    for (AddedToken token : spec.added_tokens) {
      if (token.normalized != normalized || which == AddedTokens::kNone) continue;
      if (which == AddedTokens::kNoControl && IsControl(token)) continue;
      if (normalized) token.content = normalizer.Apply(token.content);
      tokens.push_back(std::move(token));
    }
    return tokens;
  }

  void FillTokenTable(const TokenizerSpec& spec) {
    const auto set = [this](const std::string& token, int32_t id, bool special) {
      if (id >= vocab_size()) tokens_.resize(static_cast<size_t>(id) + 1);
      // What is not in the byte-level alphabet stands for itself.
      tokens_[id] = {decoder_.only_bytes() ? FromByteLevel(token).value_or(token) : token, true,
                     special};
    };
    for (const auto& [token, id] : spec.vocab) set(token, id, false);
    std::unordered_set<std::string> special;
    for (const AddedToken& token : spec.added_tokens)
      if (token.special) special.insert(token.content);
    for (const AddedToken& token : spec.added_tokens) {
      // Hugging Face's library decodes to the form that it looks for, and takes what is special
      // from that.
      const std::string form =
          token.normalized ? parts_.normalizer->Apply(token.content) : token.content;
      set(form, token.id, special.contains(form));
      added_ids_.emplace(token.content, token.id);
    }
    const auto first_of = [this](std::span<const absl::string_view> names) {
      for (const absl::string_view name : names)
        if (const int id = IdOf(name); id >= 0) return id;
      return -1;
    };
    eos_id_ = first_of(kEosNames);
    bos_id_ = first_of(kBosNames);
  }

  void AppendIds(absl::string_view text, const EncodeOptions& options,
                 std::vector<int32_t>* ids) const {
    const Finders& finders = finders_[static_cast<size_t>(options.added_tokens)];
    std::string replaced;
    if (!IsValidUtf8(text)) {
      AppendAsValidUtf8(text, &replaced);
      text = replaced;
    }
    std::unique_ptr<Scratch> scratch = Take();
    const Normalizer& normalizer = *parts_.normalizer;
    for (const auto& part : finders.raw.Split(text)) {
      const absl::string_view piece = text.substr(part.begin, part.end - part.begin);
      const TextPlace place = part.begin == 0 ? options.place : TextPlace::kAfterToken;
      if (part.id >= 0) {
        ids->push_back(part.id);
      } else if (normalizer.MayChange(piece)) {
        const std::string normal =
            normalizer.Apply(std::string(piece), place == TextPlace::kContinues);
        AppendNormalized(normal, place, finders.normalized, *scratch, ids);
      } else {
        AppendNormalized(piece, place, finders.normalized, *scratch, ids);
      }
    }
    Return(std::move(scratch));
  }

  void AppendNormalized(absl::string_view text, TextPlace place, const AddedTokenFinder& added,
                        Scratch& scratch, std::vector<int32_t>* ids) const {
    const BpeModel& model = *parts_.model;
    for (const auto& part : added.Split(text)) {
      if (part.id >= 0) {
        ids->push_back(part.id);
        continue;
      }
      parts_.pre_tokenizer->ForEachWord(
          text.substr(part.begin, part.end - part.begin),
          part.begin == 0 ? place : TextPlace::kAfterToken, scratch.pre_tokenizer,
          [&](absl::string_view word) { model.Encode(word, scratch.model, ids); });
    }
  }

  // As many scratches as threads ever encoded at once, each with a warm cache of words.
  std::unique_ptr<Scratch> Take() const {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!idle_.empty()) {
        auto scratch = std::move(idle_.back());
        idle_.pop_back();
        return scratch;
      }
    }
    auto scratch = std::make_unique<Scratch>();
    scratch->pre_tokenizer = parts_.pre_tokenizer->NewScratch();
    return scratch;
  }
  void Return(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(scratch));
  }

  const Parts parts_;
  const TokenDecoder decoder_;
  const bool cuts_long_texts_;
  std::vector<int32_t> prefix_ids_, suffix_ids_;
  const std::array<Finders, 3> finders_;  // [AddedTokens]
  std::vector<Token> tokens_;             // by id
  std::unordered_map<std::string, int32_t> added_ids_;
  int eos_id_ = -1, bos_id_ = -1;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

// No model of ours is that large; a wild id must not make a table of gigabytes.
constexpr int32_t kMaxId = 1 << 24;

absl::Status CheckIds(const TokenizerSpec& spec) {
  std::vector<bool> taken;
  const auto check = [&taken](const std::string& token, int32_t id, bool may_repeat) {
    if (id < 0 || id >= kMaxId)
      return absl::InvalidArgumentError(
          absl::StrCat("token '", token, "' has id ", id, ", wanted 0 to ", kMaxId - 1));
    if (id >= static_cast<int32_t>(taken.size())) taken.resize(static_cast<size_t>(id) + 1);
    if (taken[id] && !may_repeat)
      return absl::InvalidArgumentError(absl::StrCat("token id ", id, " is given twice"));
    taken[id] = true;
    return absl::OkStatus();
  };
  for (const auto& [token, id] : spec.vocab) RETURN_IF_ERROR(check(token, id, false));
  for (const AddedToken& token : spec.added_tokens)
    RETURN_IF_ERROR(check(token.content, token.id, true));
  return absl::OkStatus();
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<std::unique_ptr<BpeTokenizer>> Build(const TokenizerSpec& spec,
                                                    const std::string& path, std::string hash) {
  BpeTokenizer::Parts parts{.hash = std::move(hash)};
  const auto fill = [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckIds(spec));
    ASSIGN_OR_RETURN(parts.normalizer, Normalizer::Create(spec.normalizers));
    ASSIGN_OR_RETURN(parts.pre_tokenizer, PreTokenizer::Create(spec.pre_tokenizer));
    ASSIGN_OR_RETURN(parts.model, BpeModel::Create(spec));
    return absl::OkStatus();
  };
  if (const absl::Status status = fill(); !status.ok()) return InFile(path, status);
  return std::make_unique<BpeTokenizer>(spec, std::move(parts));
}

// transformers adds the tokens that tokenizer_config.json has and tokenizer.json has not.
absl::StatusOr<bool> AddTokensOf(const TokenizerConfig& config, TokenizerSpec& spec) {
  std::map<absl::string_view, int32_t> missing;  // with the id of a token of the vocabulary, or -1
  for (const AddedToken& token : config.added_tokens) missing[token.content] = -1;
  for (const std::string* named : {&config.bos_token, &config.eos_token})
    if (!named->empty()) missing[*named] = -1;
  for (const AddedToken& token : spec.added_tokens) missing.erase(token.content);
  if (missing.empty()) return false;
  std::map<int32_t, absl::string_view> taken;
  for (const auto& [text, id] : spec.vocab) {
    taken[id] = text;
    if (const auto at = missing.find(text); at != missing.end()) at->second = id;
  }
  for (const AddedToken& token : spec.added_tokens) taken[token.id] = token.content;
  std::vector<AddedToken> added;
  for (AddedToken token : config.added_tokens) {
    const auto at = missing.find(token.content);
    if (at == missing.end()) continue;
    if (at->second >= 0) token.id = at->second;
    const auto [held, is_free] = taken.emplace(token.id, at->first);
    if (!is_free && held->second != at->first)
      return absl::InvalidArgumentError(
          absl::StrCat("the added token '", token.content, "' has the id ", token.id,
                       ", which tokenizer.json gives to '", held->second, "'"));
    added.push_back(token);
    missing.erase(at);
  }
  for (const auto& [text, id] : missing)  // BOS and EOS
    if (id >= 0) added.push_back({.content = std::string(text), .id = id, .special = true});
  if (added.empty()) return false;
  spec.added_tokens.insert(spec.added_tokens.end(), added.begin(), added.end());
  std::stable_sort(spec.added_tokens.begin(), spec.added_tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const std::string config_path =
      (std::filesystem::path(path).parent_path() / "tokenizer_config.json").string();
  const auto config_file = MappedFile::Open(config_path);
  TokenizerConfig config;
  if (config_file.ok()) {
    ASSIGN_OR_RETURN(config, ParseTokenizerConfig((*config_file)->bytes(), config_path));
  } else if (!absl::IsNotFound(config_file.status())) {
    return config_file.status();
  }
  TokenizerSpec spec;
  std::string hash = Sha256Hex(file->bytes());
  if (LooksLikeTiktoken(file->bytes())) {
    // Other families' ranks look the same and mean another pattern.
    if (config.tokenizer_class != kMoonshotClass)
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": found a vocabulary of tiktoken, whose pattern no file says, and ",
          config.tokenizer_class.empty()
              ? "no tokenizer_class"
              : absl::StrCat("the tokenizer_class '", config.tokenizer_class, "'"),
          " in ", config_path, ", wanted '", kMoonshotClass, "' of Moonshot's models there"));
    ASSIGN_OR_RETURN(spec, ParseTiktoken(file->bytes(), path, config.added_tokens));
  } else {
    ASSIGN_OR_RETURN(spec, ParseTokenizerJson(file->bytes(), path));
    const absl::StatusOr<bool> more = AddTokensOf(config, spec);
    if (!more.ok()) return InFile(config_path, more.status());
    if (*more) hash = Sha256Hex(absl::StrCat(hash, (*config_file)->bytes()));
  }
  ASSIGN_OR_RETURN(auto tokenizer, Build(spec, path, std::move(hash)));
  if (absl::Status status = tokenizer->ApplyConfig(config); !status.ok())
    return InFile(config_path, status);
  return tokenizer;
}

}  // namespace sluice::data
