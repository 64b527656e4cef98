#include "trainer/loop/prepare_data.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "data/bpe_train.h"
#include "data/mapped_file.h"
#include "data/sft_corpus.h"
#include "data/token_file.h"
#include "data/token_file_format.h"
#include "data/tokenize_corpus.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {
namespace {

namespace fs = std::filesystem;

// By its first bytes: a damaged token file is an error and no text.
bool LooksLikeTokenFile(const std::string& path) {
  char first[sizeof(data::kTokenFileMagic)] = {};
  std::ifstream file(path, std::ios::binary);
  file.read(first, sizeof(first));
  return file && std::memcmp(first, data::kTokenFileMagic, sizeof(first)) == 0;
}

// Size and time of change of everything that a path stands for.
std::string StampOf(const std::string& path) {
  std::error_code error;
  const auto stamp = [&](const fs::path& file) {
    const auto changed = fs::last_write_time(file, error).time_since_epoch().count();
    return absl::StrCat("|", fs::file_size(file, error), "|", changed);
  };
  if (!fs::is_directory(path, error)) return stamp(path);
  std::vector<std::string> stamps;
  for (const auto& entry : fs::recursive_directory_iterator(path, error)) {
    if (entry.is_regular_file(error)) {
      stamps.push_back(absl::StrCat(entry.path().string(), stamp(entry.path())));
    }
  }
  std::sort(stamps.begin(), stamps.end());
  return absl::StrJoin(stamps, "|");
}

absl::Status CheckExists(absl::string_view field, const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error)) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(field, ": found no file or folder ", path));
}

// A name that changes with the text and with the tokenizer.
std::string CacheName(const std::string& path, const std::string& tokenizer_hash) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : absl::StrCat(path, StampOf(path), "|", tokenizer_hash)) {
    hash = (hash ^ c) * 0x100000001b3u;
  }
  return absl::StrFormat("%s-%016x.tokens", fs::path(path).stem().string(), hash);
}

class Preparer {
 public:
  Preparer(const data::DataConfig& config, int num_threads,
           const std::function<void(const std::string&)>& print)
      : config_(config), num_threads_(num_threads), print_(print) {}

  absl::StatusOr<PreparedData> Run() {
    std::error_code error;
    fs::create_directories(config_.cache_dir(), error);
    if (error)
      return absl::UnavailableError(
          absl::StrCat("data.cache_dir ", config_.cache_dir(), ": ", error.message()));
    PreparedData prepared;
    ASSIGN_OR_RETURN(prepared.tokenizer, Tokenizer());
    ASSIGN_OR_RETURN(tokenizer_, data::LoadTokenizer(prepared.tokenizer));
    prepared.sft_train = !config_.sft().empty();
    prepared.sft_validation = !config_.sft_validation().empty();
    for (const auto& source : prepared.sft_train ? config_.sft() : config_.train()) {
      ASSIGN_OR_RETURN(std::string path, prepared.sft_train
                                             ? ConversationsOf("data.sft", source.path())
                                             : TokensOf("data.train", source.path()));
      prepared.train.push_back(std::move(path));
    }
    for (const auto& source :
         prepared.sft_validation ? config_.sft_validation() : config_.validation()) {
      ASSIGN_OR_RETURN(std::string path, prepared.sft_validation
                                             ? ConversationsOf("data.sft_validation", source.path())
                                             : TokensOf("data.validation", source.path()));
      prepared.validation.push_back(std::move(path));
    }
    return prepared;
  }

 private:
  void Print(const std::string& text) const {
    if (print_) print_(text);
  }
  void WarnOf(int64_t num_replaced, const std::string& path) const {
    if (num_replaced > 0)
      Print(absl::StrCat("warning: ", path, ": ", data::ReplacedText(num_replaced)));
  }

  // The tokenizer.json given, or one trained on the training text.
  absl::StatusOr<std::string> Tokenizer() {
    if (!config_.tokenizer().empty()) return config_.tokenizer();
    const std::string path = config_.cache_dir() + "/tokenizer.json";
    std::error_code error;
    if (fs::exists(path, error)) return path;
    data::CorpusOptions corpus;
    corpus.num_threads = num_threads_;
    for (const auto& source : config_.train()) {
      RETURN_IF_ERROR(CheckExists("data.train", source.path()));
      if (LooksLikeTokenFile(source.path())) {
        return absl::InvalidArgumentError(absl::StrCat(
            "data.tokenizer: found nothing, wanted the tokenizer.json of the token file ",
            source.path()));
      }
      corpus.inputs.push_back(source.path());
    }
    if (corpus.inputs.empty()) {
      return absl::InvalidArgumentError(
          "data.tokenizer: found nothing, wanted a tokenizer.json or data.train to make one from");
    }
    data::BpeTrainOptions train;
    train.vocab_size = config_.train_vocab_size();
    if (train.vocab_size == 256)
      train.special_tokens.clear();  // the bytes alone: documents end without a token
    // Another run may be making one here, too; both go on with the one that was there first.
    const std::string own = data::PartialPath(path + ".new");
    ASSIGN_OR_RETURN(const data::CorpusResult result, data::TrainVocabulary(corpus, train, own));
    RETURN_IF_ERROR(data::PublishUnlessThere(own, path));
    Print(absl::StrFormat("vocabulary of %d tokens from %.1f MB of text in %.1f s: %s",
                          result.vocab_size, result.text_bytes / 1e6, result.seconds, path));
    return path;
  }

  absl::StatusOr<std::string> TokensOf(absl::string_view field, const std::string& path) {
    RETURN_IF_ERROR(CheckExists(field, path));
    if (LooksLikeTokenFile(path)) {
      RETURN_IF_ERROR(data::TokenFile::Open(path).status());
      return path;
    }
    const std::string output = config_.cache_dir() + "/" + CacheName(path, tokenizer_->hash());
    if (data::TokenFile::Open(output).ok()) return output;
    data::CorpusOptions corpus;
    corpus.num_threads = num_threads_;
    corpus.inputs = {path};
    ASSIGN_OR_RETURN(const data::CorpusResult result,
                     data::TokenizeCorpus(corpus, *tokenizer_, output));
    Print(absl::StrFormat("%s: %.2f MB of text to %d tokens (%.1f MB/s)", path,
                          result.text_bytes / 1e6, result.tokens,
                          result.seconds > 0 ? result.text_bytes / 1e6 / result.seconds : 0.0));
    WarnOf(result.num_replaced, path);
    return output;
  }

  // The same for conversations, with their loss mask beside the token file.
  absl::StatusOr<std::string> ConversationsOf(absl::string_view field, const std::string& path) {
    RETURN_IF_ERROR(CheckExists(field, path));
    if (LooksLikeTokenFile(path)) {
      RETURN_IF_ERROR(data::TokenFile::Open(data::TargetMaskPath(path)).status());
      return path;
    }
    data::ChatOptions chat;
    chat.learn_prompts = config_.learn_prompts();
    chat.control_tokens = config_.control_tokens_in_messages();
    const std::string made_with = absl::StrCat(tokenizer_->hash(), "|", config_.chat_template(),
                                               "|", chat.learn_prompts, chat.control_tokens);
    const std::string output = config_.cache_dir() + "/" + CacheName(path, made_with);
    // (The mask is written first.)
    if (data::TokenFile::Open(output).ok() &&
        data::TokenFile::Open(data::TargetMaskPath(output)).ok()) {
      return output;
    }
    ASSIGN_OR_RETURN(const auto chat_template,
                     data::ChatTemplate::Create(config_.chat_template(), *tokenizer_, chat));
    data::CorpusOptions corpus;
    corpus.num_threads = num_threads_;
    corpus.inputs = {path};
    ASSIGN_OR_RETURN(const data::SftCorpusResult result,
                     data::TokenizeConversations(corpus, *tokenizer_, *chat_template, output));
    Print(absl::StrFormat("%s: %d conversations, %d tokens of which %d are learned", path,
                          result.conversations, result.tokens, result.targets));
    WarnOf(result.num_replaced, path);
    return output;
  }

  const data::DataConfig& config_;
  const int num_threads_;
  const std::function<void(const std::string&)>& print_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
};

}  // namespace

absl::StatusOr<PreparedData> PrepareData(const data::DataConfig& config, int num_threads,
                                         const std::function<void(const std::string&)>& print) {
  return Preparer(config, num_threads, print).Run();
}

}  // namespace sluice::trainer
