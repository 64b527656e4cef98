// CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720 section 12.1), the checksum of our
// file formats. Uses the SSE4.2 instruction where the machine has it, a table elsewhere; the result
// is the same.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

// The checksum of A followed by B, where `crc` is that of A (0 for an empty A) and B is
// data[0, bytes). Any thread.
uint32_t ExtendCrc32c(uint32_t crc, const void* data, size_t bytes);

inline uint32_t Crc32c(const void* data, size_t bytes) { return ExtendCrc32c(0, data, bytes); }

namespace internal {
// The path for machines without the instruction; public so that a test can compare both.
uint32_t ExtendCrc32cByTable(uint32_t crc, const void* data, size_t bytes);
}  // namespace internal

}  // namespace sluice
