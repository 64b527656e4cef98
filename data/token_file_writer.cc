#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "data/mapped_file.h"
#include "data/token_file.h"
#include "data/token_file_format.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

class Writer : public TokenFileWriter {
 public:
  Writer(std::string path, std::string partial, std::FILE* file, const TokenFileInfo& info)
      : path_(std::move(path)),
        partial_(std::move(partial)),
        file_(file),
        info_(info),
        bytes_per_token_(info.vocab_size <= 65536 ? 2 : 4) {
    chunk_.reserve(kTokenFileChunkBytes);
  }
  ~Writer() override {
    if (file_ == nullptr) return;
    std::fclose(file_);
    std::remove(partial_.c_str());
  }

  absl::Status AddDocument(std::span<const int32_t> tokens, int64_t text_bytes) override {
    CHECK(file_ != nullptr) << "AddDocument after Finish or an error";
    CHECK_GE(text_bytes, 0);
    for (const int32_t token : tokens)
      if (token < 0 || token >= info_.vocab_size)
        return absl::InvalidArgumentError(
            absl::StrCat("token id ", token, " does not fit the vocabulary of ", info_.vocab_size,
                         " tokens of '", path_, "'"));
    for (const int32_t token : tokens) RETURN_IF_ERROR(Append(&token, bytes_per_token_));
    num_tokens_ += tokens.size();
    text_bytes_ += static_cast<uint64_t>(text_bytes);
    document_ends_.push_back(num_tokens_);
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    CHECK(file_ != nullptr) << "Finish twice or after an error";
    constexpr uint64_t kZero = 0;
    if (const uint64_t over = num_tokens_ * bytes_per_token_ % 8; over != 0)
      RETURN_IF_ERROR(Append(&kZero, 8 - over));
    TokenFileHeader header{};
    header.index_offset = sizeof(header) + payload_bytes_;
    for (const uint64_t end : document_ends_) RETURN_IF_ERROR(Append(&end, sizeof(end)));
    RETURN_IF_ERROR(FlushChunk());
    header.table_offset = sizeof(header) + payload_bytes_;
    RETURN_IF_ERROR(Write(table_.data(), table_.size() * sizeof(uint32_t)));
    FillHeader(&header);
    if (std::fseek(file_, 0, SEEK_SET) != 0) return Failed();
    RETURN_IF_ERROR(Write(&header, sizeof(header)));
    if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) return Failed();
    if (std::rename(partial_.c_str(), path_.c_str()) != 0) return Failed();
    std::fclose(file_);
    file_ = nullptr;
    return absl::OkStatus();
  }

  absl::Status ReserveHeader() {
    const TokenFileHeader zero{};
    return Write(&zero, sizeof(zero));
  }

 private:
  void FillHeader(TokenFileHeader* header) const {
    std::memcpy(header->magic, kTokenFileMagic, sizeof(header->magic));
    header->version = kTokenFileVersion;
    header->bytes_per_token = bytes_per_token_;
    header->num_tokens = num_tokens_;
    header->num_documents = document_ends_.size();
    header->text_bytes = text_bytes_;
    header->vocab_size = static_cast<uint32_t>(info_.vocab_size);
    header->eos_id = info_.eos_id;
    std::memcpy(header->tokenizer_hash, info_.tokenizer_hash.data(), info_.tokenizer_hash.size());
    header->file_bytes = header->table_offset + table_.size() * sizeof(uint32_t);
    header->chunk_bytes = kTokenFileChunkBytes;
    header->table_crc = Crc32c(table_.data(), table_.size() * sizeof(uint32_t));
    header->header_crc = Crc32c(header, offsetof(TokenFileHeader, header_crc));
  }

  absl::Status Append(const void* data, size_t bytes) {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const size_t take = std::min<size_t>(bytes, kTokenFileChunkBytes - chunk_.size());
      chunk_.insert(chunk_.end(), from, from + take);
      from += take;
      bytes -= take;
      payload_bytes_ += take;
      if (chunk_.size() == kTokenFileChunkBytes) RETURN_IF_ERROR(FlushChunk());
    }
    return absl::OkStatus();
  }

  absl::Status FlushChunk() {
    if (chunk_.empty()) return absl::OkStatus();
    table_.push_back(Crc32c(chunk_.data(), chunk_.size()));
    RETURN_IF_ERROR(Write(chunk_.data(), chunk_.size()));
    chunk_.clear();
    return absl::OkStatus();
  }

  absl::Status Write(const void* data, size_t bytes) {
    if (bytes == 0) return absl::OkStatus();  // then `data` may be null, which fwrite forbids
    return std::fwrite(data, 1, bytes, file_) == bytes ? absl::OkStatus() : Failed();
  }
  absl::Status Failed() const { return ErrnoStatus("cannot write", path_, errno); }

  const std::string path_, partial_;
  std::FILE* file_;
  const TokenFileInfo info_;
  const uint32_t bytes_per_token_;
  uint64_t num_tokens_ = 0, text_bytes_ = 0, payload_bytes_ = 0;
  std::vector<uint64_t> document_ends_;
  std::vector<char> chunk_;
  std::vector<uint32_t> table_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TokenFileWriter>> TokenFileWriter::Create(
    const std::string& path, const TokenFileInfo& info) {
  if (info.vocab_size < 1 || info.eos_id < -1 || info.eos_id >= info.vocab_size ||
      (!info.tokenizer_hash.empty() && info.tokenizer_hash.size() != 64))
    return absl::InvalidArgumentError(absl::StrCat(
        "token file '", path, "': vocab_size ", info.vocab_size, ", eos_id ", info.eos_id,
        " and a tokenizer hash of ", info.tokenizer_hash.size(), " digits do not fit together"));
  const std::string partial = PartialPath(path);
  ASSIGN_OR_RETURN(std::FILE* const file, CreatePartial(path));
  auto writer = std::make_unique<Writer>(path, partial, file, info);
  RETURN_IF_ERROR(writer->ReserveHeader());
  return writer;
}

}  // namespace sluice::data
