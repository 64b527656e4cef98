// Token files: the ids of a corpus with its document boundaries, checksummed, read by mapping.
// The format is in data/FORMAT.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::data {

struct TokenFileInfo {
  int vocab_size = 0;          // ids are in [0, vocab_size); at most 65536 of them take 16 bits
  int eos_id = -1;             // of the tokenizer, -1: none
  std::string tokenizer_hash;  // 64 hex digits (Tokenizer::hash), or empty
};

// Writes one token file. One thread. The file appears under its name when Finish succeeds; until
// then there is PartialPath(PATH), which goes with a writer that is dropped. Processes may write
// the same path at once: the last to finish has it.
class TokenFileWriter {
 public:
  // INVALID_ARGUMENT: info out of range. Else what the file system says.
  static absl::StatusOr<std::unique_ptr<TokenFileWriter>> Create(const std::string& path,
                                                                 const TokenFileInfo& info);
  virtual ~TokenFileWriter() = default;
  // `text_bytes`: of the text that the tokens stand for; evaluation reports bits per byte of it.
  // INVALID_ARGUMENT: an id outside of the vocabulary. RESOURCE_EXHAUSTED: the disk is full.
  virtual absl::Status AddDocument(std::span<const int32_t> tokens, int64_t text_bytes) = 0;
  virtual absl::Status Finish() = 0;
};

// Any thread. Each chunk is checked against its checksum when it is read for the first time.
class TokenFile {
 public:
  // Checks the header, the file's size and the table of checksums.
  // NOT_FOUND; INVALID_ARGUMENT: no token file, or of a version that this program does not know;
  // DATA_LOSS: truncated or damaged.
  static absl::StatusOr<std::unique_ptr<TokenFile>> Open(const std::string& path);
  virtual ~TokenFile() = default;

  virtual const std::string& path() const = 0;
  virtual const TokenFileInfo& info() const = 0;
  virtual int64_t num_tokens() const = 0;
  virtual int64_t num_documents() const = 0;
  virtual int64_t text_bytes() const = 0;   // of all documents together
  virtual int bytes_per_token() const = 0;  // 2 or 4
  virtual int64_t num_chunks() const = 0;
  // Of the header, which holds the checksum of the table of checksums: two files with the same
  // number have, but for chance, the same content.
  virtual uint32_t checksum() const = 0;

  // tokens[i] = token begin + i. The range must lie in the file (CHECKed).
  // DATA_LOSS names the file and the damaged chunk.
  virtual absl::Status Read(int64_t begin, std::span<int32_t> tokens) const = 0;
  // Appends to *starts each position in [begin, end) where a document begins, ascending. Documents
  // without tokens are passed over.
  virtual absl::Status DocumentStarts(int64_t begin, int64_t end,
                                      std::vector<int64_t>* starts) const = 0;
  // [begin, end) of a document in tokens.
  virtual absl::StatusOr<std::pair<int64_t, int64_t>> DocumentRange(int64_t document) const = 0;
  // Checks all chunks.
  virtual absl::Status Verify() const = 0;
};

}  // namespace sluice::data
