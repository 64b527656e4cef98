// The header of a token file; see data/FORMAT.md. Shared by reader and writer.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace sluice::data {

static_assert(std::endian::native == std::endian::little, "the file is read in place");

inline constexpr char kTokenFileMagic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'T', 'K'};
inline constexpr uint32_t kTokenFileVersion = 1;
inline constexpr uint32_t kTokenFileChunkBytes = 256 << 10;

struct TokenFileHeader {
  char magic[8];
  uint32_t version;
  uint32_t bytes_per_token;
  uint64_t num_tokens;
  uint64_t num_documents;
  uint64_t text_bytes;
  uint32_t vocab_size;
  int32_t eos_id;
  char tokenizer_hash[64];  // hex digits; all zero: none
  uint64_t index_offset;    // of the document ends
  uint64_t table_offset;    // of the checksums
  uint64_t file_bytes;
  uint32_t chunk_bytes;
  uint32_t table_crc;
  char reserved[108];   // zero
  uint32_t header_crc;  // of all bytes before it
};
static_assert(sizeof(TokenFileHeader) == 256);
static_assert(offsetof(TokenFileHeader, tokenizer_hash) == 48);
static_assert(offsetof(TokenFileHeader, header_crc) == 252);

}  // namespace sluice::data
