// Token files end to end as one stream: documents packed without gaps.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/token_file.h"

namespace sluice::data {

class TokenStream {  // any thread
 public:
  // INVALID_ARGUMENT: no path, files of different tokenizers, or of another one than
  // `tokenizer_hash` (empty: any). Else what TokenFile::Open returns.
  static absl::StatusOr<std::unique_ptr<TokenStream>> Open(const std::vector<std::string>& paths,
                                                           const std::string& tokenizer_hash);

  const TokenFileInfo& info() const { return files_[0]->info(); }
  int64_t num_tokens() const { return begin_.back(); }
  int64_t num_documents() const;
  int64_t text_bytes() const;
  std::string Identity() const;  // a line a file: checksum and number of tokens

  // As TokenFile's, over the whole stream.
  absl::Status Read(int64_t begin, std::span<int32_t> tokens) const;
  absl::Status DocumentStarts(int64_t begin, int64_t end, std::vector<int64_t>* starts) const;

 private:
  // Calls visit(file, begin, end) with the ranges of each file that [begin, end) covers.
  template <typename Visit>
  absl::Status ForEachFile(int64_t begin, int64_t end, const Visit& visit) const;

  std::vector<std::unique_ptr<TokenFile>> files_;
  std::vector<int64_t> begin_;  // [file]: its first token in the stream; one more at the end
};

}  // namespace sluice::data
