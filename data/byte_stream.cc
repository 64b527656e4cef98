#include <zlib.h>
#include <zstd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "data/mapped_file.h"
#include "data/text_files.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

absl::Status Broken(const std::string& path, absl::string_view format, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("'", path, "' cannot be read as ", format, ": ", what));
}

class PlainStream : public ByteStream {
 public:
  PlainStream(std::FILE* file, std::string path) : file_(file), path_(std::move(path)) {}
  ~PlainStream() override { std::fclose(file_); }
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    const size_t count = std::fread(buffer, 1, size, file_);
    if (count == 0 && std::ferror(file_)) return ErrnoStatus("cannot read", path_, errno);
    read_ += static_cast<int64_t>(count);
    return count;
  }
  int64_t stored_bytes_read() const override { return read_; }

 private:
  std::FILE* const file_;
  const std::string path_;
  int64_t read_ = 0;
};

class GzipStream : public ByteStream {
 public:
  GzipStream(gzFile file, std::string path) : file_(file), path_(std::move(path)) {}
  ~GzipStream() override { gzclose(file_); }
  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    const auto most =
        static_cast<unsigned>(std::min<size_t>(size, std::numeric_limits<int>::max()));
    const int count = gzread(file_, buffer, most);
    int error = Z_OK;
    const char* message = gzerror(file_, &error);
    // zlib hands through what has no gzip header.
    if (count > 0 && gzdirect(file_)) return Broken(path_, "gzip", "it has no gzip header");
    if (count < 0 || (count == 0 && error != Z_OK && error != Z_STREAM_END))
      return Broken(path_, "gzip", error == Z_BUF_ERROR ? "it is truncated" : message);
    return static_cast<size_t>(count);
  }
  int64_t stored_bytes_read() const override { return gzoffset(file_); }

 private:
  const gzFile file_;
  const std::string path_;
};

class ZstdStream : public ByteStream {
 public:
  ZstdStream(std::unique_ptr<ByteStream> stored, std::string path)
      : stored_(std::move(stored)),
        path_(std::move(path)),
        context_(ZSTD_createDStream()),
        buffer_(ZSTD_DStreamInSize()) {
    CHECK(context_ != nullptr) << "out of memory";
    // Frames of `zstd --long` too; 31 is the most that the format's tools write.
    ZSTD_DCtx_setParameter(context_, ZSTD_d_windowLogMax, 31);
  }
  ~ZstdStream() override { ZSTD_freeDStream(context_); }

  absl::StatusOr<size_t> Read(char* buffer, size_t size) override {
    ZSTD_outBuffer out = {buffer, size, 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size) {
        ASSIGN_OR_RETURN(in_.size, stored_->Read(buffer_.data(), buffer_.size()));
        in_.src = buffer_.data();
        in_.pos = 0;
        at_end_ = in_.size == 0;
      }
      if (at_end_ && !inside_frame_) return size_t{0};
      // At the end of the file this still hands out what the decoder holds back.
      const size_t rc = ZSTD_decompressStream(context_, &out, &in_);
      if (ZSTD_isError(rc)) return Broken(path_, "zstd", ZSTD_getErrorName(rc));
      inside_frame_ = rc != 0;
      if (at_end_ && inside_frame_ && out.pos == 0) return Broken(path_, "zstd", "it is truncated");
    }
    return out.pos;
  }
  int64_t stored_bytes_read() const override { return stored_->stored_bytes_read(); }

 private:
  const std::unique_ptr<ByteStream> stored_;
  const std::string path_;
  ZSTD_DStream* const context_;
  std::vector<char> buffer_;
  ZSTD_inBuffer in_ = {nullptr, 0, 0};
  bool inside_frame_ = false, at_end_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteStream>> ByteStream::Open(const TextFile& file) {
  if (file.compression == TextFile::Compression::kGzip) {
    const gzFile gz = gzopen(file.path.c_str(), "rbe");
    if (gz == nullptr) return ErrnoStatus("cannot open", file.path, errno);
    gzbuffer(gz, 128 << 10);
    return std::make_unique<GzipStream>(gz, file.path);
  }
  std::FILE* stored = std::fopen(file.path.c_str(), "rbe");
  if (stored == nullptr) return ErrnoStatus("cannot open", file.path, errno);
  auto plain = std::make_unique<PlainStream>(stored, file.path);
  if (file.compression == TextFile::Compression::kNone) return plain;
  return std::make_unique<ZstdStream>(std::move(plain), file.path);
}

}  // namespace sluice::data
