// The tokenizer of a tokenizer.json with byte-level BPE: added tokens, normal form, words, merges.
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <unordered_map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "data/added_tokens.h"
#include "data/bpe_model.h"
#include "data/mapped_file.h"
#include "data/pre_tokenizer.h"
#include "data/sha256.h"
#include "data/tokenizer.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

bool IsAscii(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 128; });
}

std::string Normalize(std::string text, const std::vector<UnicodeForm>& forms) {
  for (const UnicodeForm form : forms) {
    if (IsAscii(text)) break;  // its own normal form, all four
    int options = UTF8PROC_STABLE;
    const bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
    options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd) options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t* result = nullptr;
    const utf8proc_ssize_t bytes =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                     static_cast<utf8proc_ssize_t>(text.size()), &result,
                     static_cast<utf8proc_option_t>(options));
    CHECK_GE(bytes, 0) << utf8proc_errmsg(bytes);  // valid UTF-8: only memory can be short
    text.assign(reinterpret_cast<const char*>(result), static_cast<size_t>(bytes));
    std::free(result);  // NOLINT: utf8proc allocates with malloc
  }
  return text;
}

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
  BpeTokenizer(const TokenizerSpec& spec, std::unique_ptr<PreTokenizer> pre_tokenizer,
               std::unique_ptr<BpeModel> model, std::string hash)
      : forms_(spec.normalizers),
        prefix_ids_(spec.prefix_ids),
        suffix_ids_(spec.suffix_ids),
        finders_{Finders(spec, AddedTokens::kAll), Finders(spec, AddedTokens::kNoControl),
                 Finders(spec, AddedTokens::kNone)},
        pre_tokenizer_(std::move(pre_tokenizer)),
        model_(std::move(model)),
        hash_(std::move(hash)) {
    FillTokenTable(spec);
  }

  using Tokenizer::Encode;
  std::vector<int32_t> Encode(absl::string_view utf8, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    AppendIds(utf8, options, &ids);
    return ids;
  }

  std::vector<int32_t> EncodeWithSpecialTokens(absl::string_view utf8) const override {
    std::vector<int32_t> ids = prefix_ids_;
    AppendIds(utf8, {}, &ids);
    ids.insert(ids.end(), suffix_ids_.begin(), suffix_ids_.end());
    return ids;
  }

  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids,
                                     bool skip_special_tokens) const override {
    std::string bytes;
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size() || !tokens_[id].exists)
        return absl::InvalidArgumentError(absl::StrCat(
            "token id ", id, " is not in the vocabulary of ", vocab_size(), " tokens"));
      if (!(skip_special_tokens && tokens_[id].special)) bytes += tokens_[id].bytes;
    }
    std::string text;
    AppendAsValidUtf8(bytes, &text);
    return text;
  }

  int vocab_size() const override { return static_cast<int>(tokens_.size()); }
  int eos_id() const override { return eos_id_; }
  int bos_id() const override { return bos_id_; }
  std::string hash() const override { return hash_; }
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
    std::string bytes;
    bool exists = false, special = false;
  };
  struct Scratch {
    PreTokenizer::Scratch pre_tokenizer;
    BpeModel::Scratch model;
  };

  // What is looked for before and after normalisation.
  struct Finders {
    Finders(const TokenizerSpec& spec, AddedTokens which)
        : raw(Select(spec, which, /*normalized=*/false)),
          normalized(Select(spec, which, /*normalized=*/true)) {}
    AddedTokenFinder raw, normalized;
  };

  static bool IsControl(const AddedToken& token) {
    return token.special || absl::StartsWith(token.content, "<|") ||
           absl::StartsWith(token.content, "<\xef\xbd\x9c");
  }

  static std::vector<AddedToken> Select(const TokenizerSpec& spec, AddedTokens which,
                                        bool normalized) {
    std::vector<AddedToken> tokens;
    for (AddedToken token : spec.added_tokens) {
      if (token.normalized != normalized || which == AddedTokens::kNone) continue;
      if (which == AddedTokens::kNoControl && IsControl(token)) continue;
      if (normalized) token.content = Normalize(token.content, spec.normalizers);
      tokens.push_back(std::move(token));
    }
    return tokens;
  }

  void FillTokenTable(const TokenizerSpec& spec) {
    const auto set = [this](const std::string& token, int32_t id, bool special) {
      if (id >= vocab_size()) tokens_.resize(static_cast<size_t>(id) + 1);
      // What is not in the byte-level alphabet stands for itself.
      tokens_[id] = {FromByteLevel(token).value_or(token), true, special};
    };
    for (const auto& [token, id] : spec.vocab) set(token, id, false);
    for (const AddedToken& token : spec.added_tokens) {
      // Hugging Face's library decodes to the form that it looks for.
      set(token.normalized ? Normalize(token.content, spec.normalizers) : token.content, token.id,
          token.special);
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
    for (const auto& part : finders.raw.Split(text)) {
      const absl::string_view piece = text.substr(part.begin, part.end - part.begin);
      if (part.id >= 0) {
        ids->push_back(part.id);
      } else if (forms_.empty() || IsAscii(piece)) {
        AppendNormalized(piece, finders.normalized, *scratch, ids);
      } else {
        AppendNormalized(Normalize(std::string(piece), forms_), finders.normalized, *scratch, ids);
      }
    }
    Return(std::move(scratch));
  }

  void AppendNormalized(absl::string_view text, const AddedTokenFinder& added, Scratch& scratch,
                        std::vector<int32_t>* ids) const {
    for (const auto& part : added.Split(text)) {
      if (part.id >= 0) {
        ids->push_back(part.id);
        continue;
      }
      pre_tokenizer_->ForEachWord(
          text.substr(part.begin, part.end - part.begin), scratch.pre_tokenizer,
          [&](absl::string_view word) { model_->Encode(word, scratch.model, ids); });
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
    scratch->pre_tokenizer = pre_tokenizer_->NewScratch();
    return scratch;
  }
  void Return(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(scratch));
  }

  const std::vector<UnicodeForm> forms_;
  std::vector<int32_t> prefix_ids_, suffix_ids_;
  const std::array<Finders, 3> finders_;  // [AddedTokens]
  const std::unique_ptr<PreTokenizer> pre_tokenizer_;
  const std::unique_ptr<BpeModel> model_;
  const std::string hash_;
  std::vector<Token> tokens_;  // by id
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

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(const TokenizerSpec spec, ParseTokenizerJson(file->bytes(), path));
  if (absl::Status status = CheckIds(spec); !status.ok()) return InFile(path, status);
  auto pre_tokenizer = PreTokenizer::Create(spec.pre_tokenizer);
  if (!pre_tokenizer.ok()) return InFile(path, pre_tokenizer.status());
  auto model = BpeModel::Create(spec);
  if (!model.ok()) return InFile(path, model.status());
  auto tokenizer = std::make_unique<BpeTokenizer>(spec, *std::move(pre_tokenizer),
                                                  *std::move(model), Sha256Hex(file->bytes()));

  const std::string config_path =
      (std::filesystem::path(path).parent_path() / "tokenizer_config.json").string();
  const auto config_file = MappedFile::Open(config_path);
  if (absl::IsNotFound(config_file.status())) return tokenizer;
  RETURN_IF_ERROR(config_file.status());
  ASSIGN_OR_RETURN(const TokenizerConfig config,
                   ParseTokenizerConfig((*config_file)->bytes(), config_path));
  if (absl::Status status = tokenizer->ApplyConfig(config); !status.ok())
    return InFile(config_path, status);
  return tokenizer;
}

}  // namespace sluice::data
