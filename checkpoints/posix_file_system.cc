#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "checkpoints/file_system.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {
namespace {

// One write or read call moves at most this much (Linux stops at 2 GiB - 4 KiB on its own).
constexpr size_t kMostBytesPerCall = size_t{1} << 30;

absl::Status StatusOfErrno(int error, absl::string_view operation, const std::string& path) {
  if (error == EINTR) return absl::AbortedError("interrupted by a signal");
  const std::string what = absl::StrCat(operation, " ", path);
  if (error == EIO) return absl::DataLossError(absl::StrCat(what, ": Input/output error"));
  return absl::ErrnoToStatus(error, what);
}

// open and friends may be interrupted on network file systems; nothing was done, so call again.
template <typename Call>
int Retried(const Call& call) {
  int result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(int descriptor, std::string path)
      : descriptor_(descriptor), path_(std::move(path)) {}
  ~PosixWritableFile() override {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  absl::StatusOr<int64_t> Write(absl::string_view bytes) override {
    const ssize_t written =
        ::write(descriptor_, bytes.data(), std::min(bytes.size(), kMostBytesPerCall));
    if (written < 0) return StatusOfErrno(errno, "write", path_);
    return static_cast<int64_t>(written);
  }

  absl::Status Sync() override {
    // Never retried, not even after EINTR: the kernel reports a failed write-back only once.
    if (::fsync(descriptor_) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("fsync ", path_));
  }

  absl::Status Close() override {
    // The descriptor is gone even when close fails (Linux close(2)).
    const int descriptor = std::exchange(descriptor_, -1);
    if (::close(descriptor) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("close ", path_));
  }

 private:
  int descriptor_;
  const std::string path_;
};

class PosixReadableFile : public ReadableFile {
 public:
  PosixReadableFile(int descriptor, std::string path)
      : descriptor_(descriptor), path_(std::move(path)) {}
  ~PosixReadableFile() override { ::close(descriptor_); }

  absl::StatusOr<int64_t> Read(int64_t offset, std::span<char> out) override {
    const ssize_t got =
        ::pread(descriptor_, out.data(), std::min(out.size(), kMostBytesPerCall), offset);
    if (got < 0) return StatusOfErrno(errno, "read", path_);
    return static_cast<int64_t>(got);
  }

  absl::StatusOr<int64_t> Size() override {
    struct stat info;
    if (::fstat(descriptor_, &info) != 0) return StatusOfErrno(errno, "stat", path_);
    return static_cast<int64_t>(info.st_size);
  }

 private:
  const int descriptor_;
  const std::string path_;
};

class PosixFileSystem : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateFile(const std::string& path) override {
    const int descriptor = Retried(
        [&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644); });
    if (descriptor < 0) return StatusOfErrno(errno, "create", path);
    return std::make_unique<PosixWritableFile>(descriptor, path);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenFile(const std::string& path) override {
    const int descriptor = Retried([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
    if (descriptor < 0) return StatusOfErrno(errno, "open", path);
    return std::make_unique<PosixReadableFile>(descriptor, path);
  }

  absl::Status MakeDirectory(const std::string& path) override {
    return Done(Retried([&] { return ::mkdir(path.c_str(), 0755); }), "mkdir", path);
  }

  absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) override {
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) return StatusOfErrno(errno, "list", path);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(directory)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    const int error = errno;
    ::closedir(directory);
    if (error != 0) return StatusOfErrno(error, "list", path);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status SyncDirectory(const std::string& path) override {
    const int descriptor =
        Retried([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    if (descriptor < 0) return StatusOfErrno(errno, "open", path);
    const int result = ::fsync(descriptor);
    const int error = errno;
    ::close(descriptor);
    // Some network and FUSE file systems have no fsync for directories and say EINVAL.
    if (result != 0 && error != EINVAL)
      return absl::ErrnoToStatus(error, absl::StrCat("fsync ", path));
    return absl::OkStatus();
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    return Done(std::rename(from.c_str(), to.c_str()), "rename", from);
  }
  absl::Status RemoveFile(const std::string& path) override {
    return Done(::unlink(path.c_str()), "remove", path);
  }
  absl::Status RemoveDirectory(const std::string& path) override {
    return Done(::rmdir(path.c_str()), "remove", path);
  }

  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override {
    struct statvfs info;
    if (Retried([&] { return ::statvfs(path.c_str(), &info); }) != 0)
      return StatusOfErrno(errno, "statvfs", path);
    return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  }

 private:
  static absl::Status Done(int result, absl::string_view operation, const std::string& path) {
    return result == 0 ? absl::OkStatus() : StatusOfErrno(errno, operation, path);
  }
};

}  // namespace

std::unique_ptr<FileSystem> CreatePosixFileSystem() { return std::make_unique<PosixFileSystem>(); }

}  // namespace sluice::checkpoints
