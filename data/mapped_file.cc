#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

// All but the process number of the names that this host's processes write `path` under.
std::string PartialStem(const std::string& path) {
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(path, ".partial.", host, ".");
}

void RemoveIfUnlocked(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) unlink(path.c_str());
  close(fd);
}

void RemoveAbandoned(const std::string& path) {
  namespace fs = std::filesystem;
  const std::string stem = fs::path(PartialStem(path)).filename().string();
  const fs::path folder = fs::path(path).has_parent_path() ? fs::path(path).parent_path() : ".";
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    int process = 0;
    if (!absl::StartsWith(name, stem) || !absl::SimpleAtoi(name.substr(stem.size()), &process))
      continue;
    if (process > 0 && kill(process, 0) != 0 && errno == ESRCH)
      RemoveIfUnlocked(at->path().string());
  }
}

}  // namespace

absl::Status ErrnoStatus(absl::string_view what, const std::string& path, int error) {
  const std::string message = absl::StrCat(what, " '", path, "': ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case EISDIR:
    case ENOTDIR:
      return absl::InvalidArgumentError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus("cannot open", path, errno);
  struct stat info;
  void* data = nullptr;
  int error = 0;
  if (fstat(fd, &info) != 0) {
    error = errno;
  } else if (S_ISDIR(info.st_mode)) {
    error = EISDIR;
  } else if (info.st_size > 0) {  // an empty range cannot be mapped
    data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) error = errno;
  }
  close(fd);
  if (error != 0) return ErrnoStatus("cannot map", path, error);
  return std::unique_ptr<MappedFile>(
      new MappedFile(path, static_cast<const uint8_t*>(data), static_cast<size_t>(info.st_size)));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  return std::string(file->bytes());
}

std::string PartialPath(const std::string& path) {
  return absl::StrCat(PartialStem(path), getpid());
}

absl::StatusOr<std::FILE*> CreatePartial(const std::string& path) {
  RemoveAbandoned(path);
  const std::string partial = PartialPath(path);
  std::FILE* file = std::fopen(partial.c_str(), "wbe");
  if (file == nullptr) return ErrnoStatus("cannot create", partial, errno);
  // For processes that see this folder but not this process: containers that share a host's name.
  flock(fileno(file), LOCK_EX | LOCK_NB);
  return file;
}

absl::Status WriteWholeFile(const std::string& path, absl::string_view content) {
  const std::string partial = PartialPath(path);
  ASSIGN_OR_RETURN(std::FILE* const file, CreatePartial(path));
  errno = 0;
  bool good = std::fwrite(content.data(), 1, content.size(), file) == content.size();
  good = std::fflush(file) == 0 && good;
  good = fsync(fileno(file)) == 0 && good;
  int error = errno;
  if (std::fclose(file) != 0 && good) good = false, error = errno;
  if (good && std::rename(partial.c_str(), path.c_str()) != 0) good = false, error = errno;
  if (good) return absl::OkStatus();
  std::remove(partial.c_str());
  return ErrnoStatus("cannot write", path, error);
}

absl::Status PublishUnlessThere(const std::string& from, const std::string& path) {
  if (link(from.c_str(), path.c_str()) == 0 || errno == EEXIST) {
    std::remove(from.c_str());
    return absl::OkStatus();
  }
  // A file system without links.
  if (std::rename(from.c_str(), path.c_str()) == 0) return absl::OkStatus();
  const int error = errno;
  std::remove(from.c_str());
  return ErrnoStatus("cannot write", path, error);
}

}  // namespace sluice::data
