#include "checkpoints/file_system.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::checkpoints {

absl::Status WriteAll(WritableFile& file, absl::string_view bytes) {
  while (!bytes.empty()) {
    absl::StatusOr<int64_t> written = file.Write(bytes);
    if (absl::IsAborted(written.status())) continue;
    RETURN_IF_ERROR(written.status());
    if (*written <= 0) return absl::InternalError("a write of some bytes wrote none");
    bytes.remove_prefix(static_cast<size_t>(*written));
  }
  return absl::OkStatus();
}

absl::Status ReadExactly(ReadableFile& file, const std::string& path, int64_t offset,
                         std::span<char> out) {
  while (!out.empty()) {
    absl::StatusOr<int64_t> got = file.Read(offset, out);
    if (absl::IsAborted(got.status())) continue;
    RETURN_IF_ERROR(got.status());
    if (*got <= 0) {
      return absl::DataLossError(absl::StrCat(path, ": the file ends at byte ", offset, ", ",
                                              out.size(), " bytes too early"));
    }
    out = out.subspan(static_cast<size_t>(*got));
    offset += *got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFile(FileSystem& files, const std::string& path,
                                          int64_t most_bytes) {
  ASSIGN_OR_RETURN(std::unique_ptr<ReadableFile> file, files.OpenFile(path));
  ASSIGN_OR_RETURN(const int64_t size, file->Size());
  if (size > most_bytes) {
    return absl::DataLossError(
        absl::StrCat(path, ": the file has ", size, " bytes, at most ", most_bytes, " make sense"));
  }
  std::string bytes(static_cast<size_t>(size), '\0');
  RETURN_IF_ERROR(ReadExactly(*file, path, 0, {bytes.data(), bytes.size()}));
  return bytes;
}

std::string JoinPath(absl::string_view directory, absl::string_view name) {
  if (directory.empty()) return std::string(name);
  return absl::StrCat(directory, directory.back() == '/' ? "" : "/", name);
}

std::string ParentPath(absl::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return ".";
  return std::string(slash == 0 ? path.substr(0, 1) : path.substr(0, slash));
}

}  // namespace sluice::checkpoints
