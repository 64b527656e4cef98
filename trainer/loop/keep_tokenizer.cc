#include "trainer/loop/keep_tokenizer.h"

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "data/mapped_file.h"
#include "data/tiktoken.h"
#include "data/tokenizer.h"
#include "kernels/core/status_macros.h"
#include "trainer/loop/text_file.h"

namespace sluice::trainer {
namespace {

namespace fs = std::filesystem;

constexpr char kTokenizer[] = "tokenizer.json", kTiktoken[] = "tiktoken.model",
               kConfig[] = "tokenizer_config.json";

absl::Status Copy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (fs::equivalent(from, to, error)) return absl::OkStatus();
  fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(to.string(), ": cannot be written"));
}

// The text of a token, null when there is none.
absl::StatusOr<nlohmann::ordered_json> TokenText(const data::Tokenizer& tokenizer, int id) {
  if (id < 0) return nullptr;
  ASSIGN_OR_RETURN(const std::string text, tokenizer.Decode(std::vector<int32_t>{id}));
  return text;
}

// Without this file transformers takes the tokenizer of the model's family, which adds a BOS and
// tokens of its own.
absl::Status WriteTokenizerConfig(const fs::path& tokenizer_json, const fs::path& path) {
  ASSIGN_OR_RETURN(const auto tokenizer, data::LoadTokenizer(tokenizer_json.string()));
  nlohmann::ordered_json config;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  ASSIGN_OR_RETURN(config["bos_token"], TokenText(*tokenizer, tokenizer->bos_id()));
  ASSIGN_OR_RETURN(config["eos_token"], TokenText(*tokenizer, tokenizer->eos_id()));
  config["clean_up_tokenization_spaces"] = false;
  return WriteText(path, config.dump(2) + "\n");
}

}  // namespace

std::string TokenizerIn(const std::string& dir) {
  std::error_code error;
  const fs::path json = fs::path(dir) / kTokenizer, tiktoken = fs::path(dir) / kTiktoken;
  return !fs::exists(json, error) && fs::exists(tiktoken, error) ? tiktoken.string()
                                                                 : json.string();
}

absl::Status KeepTokenizer(const std::string& tokenizer, const std::string& dir) {
  RETURN_IF_ERROR(Copy(tokenizer, fs::path(dir) / kTokenizer));
  const fs::path config = fs::path(tokenizer).parent_path() / kConfig;
  std::error_code error;
  return fs::exists(config, error) ? Copy(config, fs::path(dir) / kConfig) : absl::OkStatus();
}

absl::Status ReleaseTokenizer(const std::string& dir, const std::string& to) {
  std::error_code error;
  const fs::path kept = fs::path(dir) / kTokenizer, config = fs::path(dir) / kConfig;
  if (!fs::exists(kept, error)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto file, data::MappedFile::Open(kept.string()));
  const bool is_tiktoken = data::LooksLikeTiktoken(file->bytes());
  RETURN_IF_ERROR(Copy(kept, fs::path(to) / (is_tiktoken ? kTiktoken : kTokenizer)));
  if (fs::exists(config, error)) return Copy(config, fs::path(to) / kConfig);
  return is_tiktoken ? absl::OkStatus() : WriteTokenizerConfig(kept, fs::path(to) / kConfig);
}

}  // namespace sluice::trainer
