#include "trainer/loop/keep_tokenizer.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "data/mapped_file.h"
#include "data/tiktoken.h"
#include "kernels/core/status_macros.h"

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
  const char* name = data::LooksLikeTiktoken(file->bytes()) ? kTiktoken : kTokenizer;
  RETURN_IF_ERROR(Copy(kept, fs::path(to) / name));
  return fs::exists(config, error) ? Copy(config, fs::path(to) / kConfig) : absl::OkStatus();
}

}  // namespace sluice::trainer
