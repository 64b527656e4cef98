#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "data/mapped_file.h"
#include "data/token_file.h"
#include "data/token_file_format.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

absl::Status Damaged(const std::string& path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("token file '", path, "' is damaged: ", what));
}

// Whether the offsets and counts, which the header's checksum vouches for, agree with each other.
bool IsConsistent(const TokenFileHeader& h) {
  constexpr uint64_t kMost = uint64_t{1} << 56;  // no sum below can overflow
  if (h.num_tokens > kMost || h.num_documents > kMost || h.chunk_bytes == 0) return false;
  if (h.bytes_per_token != 2 && h.bytes_per_token != 4) return false;
  if (h.vocab_size == 0 || h.vocab_size > (h.bytes_per_token == 2 ? 65536u : 1u << 31))
    return false;
  const uint64_t token_bytes = (h.num_tokens * h.bytes_per_token + 7) / 8 * 8;
  if (h.index_offset != sizeof(h) + token_bytes) return false;
  if (h.table_offset != h.index_offset + 8 * h.num_documents) return false;
  const uint64_t num_chunks = (h.table_offset - sizeof(h) + h.chunk_bytes - 1) / h.chunk_bytes;
  return h.file_bytes == h.table_offset + 4 * num_chunks;
}

class Reader : public TokenFile {
 public:
  Reader(std::unique_ptr<MappedFile> file, const TokenFileHeader& header)
      : file_(std::move(file)),
        header_(header),
        num_chunks_(static_cast<int64_t>((header.file_bytes - header.table_offset) / 4)),
        checked_(std::make_unique<std::atomic<bool>[]>(static_cast<size_t>(num_chunks_))) {
    info_.vocab_size = static_cast<int>(header.vocab_size);
    info_.eos_id = header.eos_id;
    if (header.tokenizer_hash[0] != '\0')
      info_.tokenizer_hash.assign(header.tokenizer_hash, sizeof(header.tokenizer_hash));
  }

  const std::string& path() const override { return file_->path(); }
  const TokenFileInfo& info() const override { return info_; }
  int64_t num_tokens() const override { return static_cast<int64_t>(header_.num_tokens); }
  int64_t num_documents() const override { return static_cast<int64_t>(header_.num_documents); }
  int64_t text_bytes() const override { return static_cast<int64_t>(header_.text_bytes); }
  int bytes_per_token() const override { return static_cast<int>(header_.bytes_per_token); }
  int64_t num_chunks() const override { return num_chunks_; }
  uint32_t checksum() const override { return header_.header_crc; }

  absl::Status Read(int64_t begin, std::span<int32_t> tokens) const override {
    const auto count = static_cast<int64_t>(tokens.size());
    CHECK(begin >= 0 && begin <= num_tokens() - count) << path() << " token " << begin;
    const size_t width = header_.bytes_per_token;
    const size_t at = sizeof(TokenFileHeader) + static_cast<size_t>(begin) * width;
    RETURN_IF_ERROR(EnsureChecked(at, tokens.size() * width));
    const uint8_t* from = file_->data() + at;
    if (width == 4) {
      if (count > 0) std::memcpy(tokens.data(), from, tokens.size() * 4);
      return absl::OkStatus();
    }
    for (int64_t i = 0; i < count; ++i) {
      uint16_t token;
      std::memcpy(&token, from + 2 * i, 2);
      tokens[static_cast<size_t>(i)] = token;
    }
    return absl::OkStatus();
  }

  absl::Status DocumentStarts(int64_t begin, int64_t end,
                              std::vector<int64_t>* starts) const override {
    // Document d > 0 begins where document d - 1 ends: the first end that is at least `begin`.
    int64_t low = 0, high = num_documents();
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      ASSIGN_OR_RETURN(const int64_t document_end, End(middle));
      if (document_end < begin) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    int64_t last = -1;
    if (begin <= 0 && end > 0 && num_tokens() > 0) starts->push_back(last = 0);
    for (int64_t d = low; d + 1 < num_documents(); ++d) {
      ASSIGN_OR_RETURN(const int64_t start, End(d));
      if (start >= end || start >= num_tokens()) break;
      if (start != last) starts->push_back(last = start);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::pair<int64_t, int64_t>> DocumentRange(int64_t document) const override {
    CHECK(document >= 0 && document < num_documents()) << path() << " document " << document;
    int64_t begin = 0;
    if (document > 0) {
      ASSIGN_OR_RETURN(begin, End(document - 1));
    }
    ASSIGN_OR_RETURN(const int64_t end, End(document));
    return std::pair<int64_t, int64_t>(begin, end);
  }

  absl::Status Verify() const override {
    return EnsureChecked(sizeof(TokenFileHeader),
                         static_cast<size_t>(header_.table_offset) - sizeof(TokenFileHeader));
  }

 private:
  absl::StatusOr<int64_t> End(int64_t document) const {
    const size_t at = header_.index_offset + 8 * static_cast<size_t>(document);
    RETURN_IF_ERROR(EnsureChecked(at, 8));
    uint64_t end;
    std::memcpy(&end, file_->data() + at, 8);
    return static_cast<int64_t>(end);
  }

  absl::Status EnsureChecked(size_t at, size_t bytes) const {
    if (bytes == 0) return absl::OkStatus();
    const size_t payload = sizeof(TokenFileHeader);
    const size_t first = (at - payload) / header_.chunk_bytes;
    const size_t last = (at + bytes - 1 - payload) / header_.chunk_bytes;
    for (size_t chunk = first; chunk <= last; ++chunk) {
      // Two threads may both check a chunk: no harm, and nobody waits.
      if (!checked_[chunk].load(std::memory_order_relaxed)) RETURN_IF_ERROR(CheckChunk(chunk));
    }
    return absl::OkStatus();
  }

  absl::Status CheckChunk(size_t chunk) const {
    const size_t begin = sizeof(TokenFileHeader) + chunk * header_.chunk_bytes;
    const size_t end = std::min<size_t>(begin + header_.chunk_bytes, header_.table_offset);
    uint32_t wanted;
    std::memcpy(&wanted, file_->data() + header_.table_offset + 4 * chunk, 4);
    const uint32_t found = Crc32c(file_->data() + begin, end - begin);
    if (found != wanted)
      return Damaged(path(), absl::StrCat("chunk ", chunk, " of ", num_chunks_, " (bytes ", begin,
                                          " to ", end - 1, ") has the checksum ", absl::Hex(found),
                                          ", wanted ", absl::Hex(wanted)));
    checked_[chunk].store(true, std::memory_order_relaxed);
    return absl::OkStatus();
  }

  const std::unique_ptr<MappedFile> file_;
  const TokenFileHeader header_;
  const int64_t num_chunks_;
  const std::unique_ptr<std::atomic<bool>[]> checked_;
  TokenFileInfo info_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenFile>> TokenFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const size_t known = std::min(file->size(), sizeof(kTokenFileMagic));
  if (known == 0 || std::memcmp(file->data(), kTokenFileMagic, known) != 0)
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' is not a token file: it begins with '",
                     absl::CHexEscape(file->bytes().substr(0, known)), "', wanted 'SLUICETK'"));
  TokenFileHeader header;
  if (file->size() < sizeof(header))
    return absl::DataLossError(absl::StrCat("token file '", path, "' is truncated: it has ",
                                            file->size(), " bytes, its header alone has ",
                                            sizeof(header)));
  std::memcpy(&header, file->data(), sizeof(header));
  if (header.version != kTokenFileVersion)
    return absl::InvalidArgumentError(absl::StrCat("token file '", path, "' has format version ",
                                                   header.version, ", this program reads ",
                                                   kTokenFileVersion));
  if (header.header_crc != Crc32c(&header, offsetof(TokenFileHeader, header_crc)))
    return Damaged(path, "its header does not match the header's checksum");
  if (!IsConsistent(header)) return Damaged(path, "its header contradicts itself");
  if (header.file_bytes != file->size())
    return absl::DataLossError(absl::StrCat(
        "token file '", path, "' ", file->size() < header.file_bytes ? "is truncated" : "has grown",
        ": it has ", file->size(), " bytes, its header says ", header.file_bytes));
  const size_t table_bytes = header.file_bytes - header.table_offset;
  if (header.table_crc != Crc32c(file->data() + header.table_offset, table_bytes))
    return Damaged(path, "its table of checksums does not match the table's checksum");
  return std::make_unique<Reader>(std::move(file), header);
}

}  // namespace sluice::data
