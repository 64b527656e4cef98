// The file system as this folder sees it: an interface, so that tests can run every save in memory
// and make any operation fail, or be the last one of the process.
//
// Errors: NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED as named; RESOURCE_EXHAUSTED for no space,
// no quota, no descriptors; DATA_LOSS for a device that cannot read what it holds; ABORTED for "a
// signal came first, nothing was done, try again" (only from Write and Read); other codes from
// errno. Messages name the operation and the path. Objects may be used by one thread at a time; a
// FileSystem by any number.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::checkpoints {

class WritableFile {
 public:
  virtual ~WritableFile() = default;  // closes, and drops what Close would have said
  // Appends a prefix of `bytes`, at least one byte unless it is empty; returns how many.
  virtual absl::StatusOr<int64_t> Write(absl::string_view bytes) = 0;
  // Returns when the file's contents would survive a power failure. After an error the contents are
  // unknown: the kernel may have dropped them, so a second Sync proves nothing.
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;  // once
};

class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Reads at `offset`; returns how many bytes came, 0 only at the end of the file.
  virtual absl::StatusOr<int64_t> Read(int64_t offset, std::span<char> out) = 0;
  virtual absl::StatusOr<int64_t> Size() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // An empty new file; ALREADY_EXISTS if there is one.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> CreateFile(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenFile(const std::string& path) = 0;
  virtual absl::Status MakeDirectory(const std::string& path) = 0;  // its parent must exist
  // Names, sorted, without "." and "..".
  virtual absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) = 0;
  // Makes the directory's entries (creations, removals, renames) survive a power failure.
  virtual absl::Status SyncDirectory(const std::string& path) = 0;
  // Atomic; replaces a file at `to`. Both in the same directory.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  virtual absl::Status RemoveDirectory(const std::string& path) = 0;  // must be empty
  // Bytes that can still be written below the existing directory `path`.
  virtual absl::StatusOr<int64_t> FreeBytes(const std::string& path) = 0;
};

// The machine's own files.
std::unique_ptr<FileSystem> CreatePosixFileSystem();

// Writes all of `bytes`, however short the single writes are and whatever signals come.
absl::Status WriteAll(WritableFile& file, absl::string_view bytes);
// Fills `out` from `offset` on; DATA_LOSS if the file ends before. `path` is for the message.
absl::Status ReadExactly(ReadableFile& file, const std::string& path, int64_t offset,
                         std::span<char> out);
// The whole file; DATA_LOSS if it is longer than `most_bytes`.
absl::StatusOr<std::string> ReadWholeFile(FileSystem& files, const std::string& path,
                                          int64_t most_bytes);

// "a/b" of ("a", "b"), and "a" of "a/b" ("." of "b").
std::string JoinPath(absl::string_view directory, absl::string_view name);
std::string ParentPath(absl::string_view path);

}  // namespace sluice::checkpoints
