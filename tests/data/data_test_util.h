// Helpers of the data tests: a folder that vanishes, token files, damaged files, the golden
// tokenizer.
#pragma once

#include <gtest/gtest.h>
#include <zstd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "data/mapped_file.h"
#include "data/token_file.h"
#include "tests/support/source_path.h"

namespace sluice::data {

class TempDir {
 public:
  TempDir() {
    std::string pattern = ::testing::TempDir() + "/sluice_data_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& content) const {
    const std::string path = File(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string Slurp(const std::string& path) {
  const auto content = ReadWholeFile(path);
  EXPECT_TRUE(content.ok()) << content.status();
  return content.ok() ? *content : "";
}

inline void FlipByte(const std::string& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = static_cast<char>(file.get() ^ 0x40);
  file.seekp(at);
  file.put(byte);
}

// Documents of the given lengths; token i of the file is (i * 7 + salt) % vocab_size.
inline std::string WriteTokens(const std::string& path, const std::vector<int>& lengths,
                               TokenFileInfo info = {.vocab_size = 1000, .eos_id = 0},
                               int salt = 0) {
  auto writer = TokenFileWriter::Create(path, info);
  EXPECT_TRUE(writer.ok()) << writer.status();
  int64_t next = 0;
  for (const int length : lengths) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < length; ++i, ++next)
      tokens.push_back(static_cast<int32_t>((next * 7 + salt) % info.vocab_size));
    EXPECT_TRUE((*writer)->AddDocument(tokens, 3 * length).ok());
  }
  EXPECT_TRUE((*writer)->Finish().ok());
  return path;
}

inline std::string ZstdCompress(const std::string& content) {
  std::string out(ZSTD_compressBound(content.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), content.data(), content.size(), 3));
  return out;
}

inline std::string ZstdDecompress(const std::string& content) {
  std::string out(ZSTD_getFrameContentSize(content.data(), content.size()), '\0');
  out.resize(ZSTD_decompress(out.data(), out.size(), content.data(), content.size()));
  return out;
}

inline std::string GoldenPath(const std::string& name) {
  return testing::SourcePath("tests/golden/tokenizers/") + name;
}

// EXPECT that `status` has the code and that its message has all the parts.
inline void ExpectStatus(const absl::Status& status, absl::StatusCode code,
                         const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status;
  for (const std::string& part : parts)
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << status << "\nlacks: " << part;
}

}  // namespace sluice::data
