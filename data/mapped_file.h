// Reading files: mapped into memory, or whole into a string.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::data {

// A status that names `path` and the reason that errno gives: NOT_FOUND when there is no such file,
// else RESOURCE_EXHAUSTED (disk full), PERMISSION_DENIED or UNAVAILABLE.
absl::Status ErrnoStatus(absl::string_view what, const std::string& path, int error);

class MappedFile {  // read-only; any thread
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  absl::string_view bytes() const {
    return absl::string_view(reinterpret_cast<const char*>(data_), size_);
  }

 private:
  MappedFile(std::string path, const uint8_t* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  const std::string path_;
  const uint8_t* const data_;
  const size_t size_;
};

absl::StatusOr<std::string> ReadWholeFile(const std::string& path);
// Where this process writes what is to become `path`: beside it, under a name that no other process
// uses, on this host or another that shares the folder.
std::string PartialPath(const std::string& path);
// An empty file at PartialPath(path), open for writing. Those that processes of this host began for
// the same path and that died before they ended it are removed; one that another process may still
// be writing (it runs, or holds the lock that this call takes) stays.
absl::StatusOr<std::FILE*> CreatePartial(const std::string& path);
// Writes to PartialPath and renames: a reader never sees half a file.
absl::Status WriteWholeFile(const std::string& path, absl::string_view content);
// Makes `from` the file `path`, unless that is there already: then it stays, and `from` goes. Of
// processes that do this at once, all end with the file of the first.
absl::Status PublishUnlessThere(const std::string& from, const std::string& path);

}  // namespace sluice::data
