#include "tests/cuda_double/ptx/fatbin.h"

#include <zstd.h>

#include <cstdint>
#include <cstring>

namespace sluice::cuda_double {
namespace {

// The layout is not documented; this is what CUDA 13.0 writes.
struct Wrapper {
  uint32_t magic, version;
  const char* data;
  void* unused;
};
constexpr uint32_t kWrapperMagic = 0x466243b1, kHeaderMagic = 0xba55ed50;
constexpr uint16_t kKindPtx = 1, kKindCubin = 2;

template <typename T>
T Read(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// An entry: its header at `at` (u32 at 16: compressed size, 0 for plain text; u64 at 56: plain
// size), then the payload.
std::string ReadPtxEntry(const char* at, uint32_t header_bytes, uint64_t payload_bytes,
                         std::string& text) {
  const char* payload = at + header_bytes;
  const auto compressed = Read<uint32_t>(at + 16);
  if (compressed == 0) {
    text.assign(payload, strnlen(payload, payload_bytes));
    return "";
  }
  text.resize(Read<uint64_t>(at + 56));
  const size_t size = ZSTD_decompress(text.data(), text.size(), payload, compressed);
  if (ZSTD_isError(size)) return std::string("fat binary: ") + ZSTD_getErrorName(size);
  text.resize(strnlen(text.data(), size));
  return "";
}

}  // namespace

std::string ReadFatBinary(const void* wrapper, std::vector<std::string>& texts) {
  const auto& w = *static_cast<const Wrapper*>(wrapper);
  if (w.magic != kWrapperMagic) return "fat binary: unknown wrapper";
  if (Read<uint32_t>(w.data) != kHeaderMagic) return "fat binary: unknown header";
  const char* at = w.data + Read<uint16_t>(w.data + 6);
  const char* const end = at + Read<uint64_t>(w.data + 8);
  while (at < end) {
    const auto kind = Read<uint16_t>(at);
    const auto header_bytes = Read<uint32_t>(at + 4);
    const auto payload_bytes = Read<uint64_t>(at + 8);
    if (kind == kKindPtx) {
      std::string text;
      const std::string error = ReadPtxEntry(at, header_bytes, payload_bytes, text);
      if (!error.empty()) return error;
      texts.push_back(std::move(text));
    } else if (kind != kKindCubin) {
      return "fat binary: unknown kind of entry " + std::to_string(kind);
    }
    at += header_bytes + payload_bytes;
  }
  return "";
}

}  // namespace sluice::cuda_double
