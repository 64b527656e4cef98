#include "data/token_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {

absl::StatusOr<std::unique_ptr<TokenStream>> TokenStream::Open(
    const std::vector<std::string>& paths, const std::string& tokenizer_hash) {
  if (paths.empty()) return absl::InvalidArgumentError("a data source without a token file");
  auto stream = std::make_unique<TokenStream>();
  stream->begin_.push_back(0);
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(std::unique_ptr<TokenFile> file, TokenFile::Open(path));
    const TokenFileInfo& info = file->info();
    if (!tokenizer_hash.empty() && info.tokenizer_hash != tokenizer_hash)
      return absl::InvalidArgumentError(absl::StrCat(
          "token file '", path, "' was made with the tokenizer ", info.tokenizer_hash.substr(0, 12),
          "..., wanted ", tokenizer_hash.substr(0, 12), "... (SHA-256 of tokenizer.json)"));
    const TokenFile& first = stream->files_.empty() ? *file : *stream->files_[0];
    if (info.tokenizer_hash != first.info().tokenizer_hash ||
        info.vocab_size != first.info().vocab_size)
      return absl::InvalidArgumentError(absl::StrCat("token files '", first.path(), "' and '", path,
                                                     "' were made with different tokenizers"));
    stream->begin_.push_back(stream->begin_.back() + file->num_tokens());
    stream->files_.push_back(std::move(file));
  }
  return stream;
}

int64_t TokenStream::num_documents() const {
  int64_t sum = 0;
  for (const auto& file : files_) sum += file->num_documents();
  return sum;
}

int64_t TokenStream::text_bytes() const {
  int64_t sum = 0;
  for (const auto& file : files_) sum += file->text_bytes();
  return sum;
}

std::string TokenStream::Identity() const {
  std::string lines;
  for (const auto& file : files_)
    absl::StrAppend(&lines, absl::Hex(file->checksum(), absl::kZeroPad8), " ", file->num_tokens(),
                    "\n");
  return lines;
}

template <typename Visit>
absl::Status TokenStream::ForEachFile(int64_t begin, int64_t end, const Visit& visit) const {
  CHECK(begin >= 0 && begin <= end && end <= num_tokens()) << begin << " to " << end;
  auto f =
      static_cast<size_t>(std::upper_bound(begin_.begin(), begin_.end(), begin) - begin_.begin()) -
      1;
  for (; f < files_.size() && begin_[f] < end; ++f) {
    const int64_t from = std::max(begin, begin_[f]), to = std::min(end, begin_[f + 1]);
    if (from < to) RETURN_IF_ERROR(visit(f, from, to));
  }
  return absl::OkStatus();
}

absl::Status TokenStream::Read(int64_t begin, std::span<int32_t> tokens) const {
  return ForEachFile(
      begin, begin + static_cast<int64_t>(tokens.size()), [&](size_t f, int64_t from, int64_t to) {
        return files_[f]->Read(from - begin_[f], tokens.subspan(static_cast<size_t>(from - begin),
                                                                static_cast<size_t>(to - from)));
      });
}

absl::Status TokenStream::DocumentStarts(int64_t begin, int64_t end,
                                         std::vector<int64_t>* starts) const {
  return ForEachFile(begin, end, [&](size_t f, int64_t from, int64_t to) {
    const size_t before = starts->size();
    const absl::Status status = files_[f]->DocumentStarts(from - begin_[f], to - begin_[f], starts);
    for (size_t i = before; i < starts->size(); ++i) (*starts)[i] += begin_[f];
    return status;
  });
}

}  // namespace sluice::data
