#include "data/text_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "data/json_lines.h"
#include "data/mapped_file.h"
#include "data/token_file.h"
#include "data/utf8.h"
#include "kernels/core/status_macros.h"

namespace sluice::data {
namespace {

namespace fs = std::filesystem;
constexpr size_t kReadBytes = size_t{1} << 20;

// What the name says; `bytes` stays 0. *is_known: the name is of a kind that a folder may hold.
TextFile ByName(const fs::path& path, bool* is_known) {
  TextFile file{.path = path.string()};
  absl::string_view name = file.path;
  if (absl::ConsumeSuffix(&name, ".gz"))
    file.compression = TextFile::Compression::kGzip;
  else if (absl::ConsumeSuffix(&name, ".zst"))
    file.compression = TextFile::Compression::kZstd;
  file.json_lines = absl::EndsWith(name, ".jsonl");
  *is_known = file.json_lines || absl::EndsWith(name, ".txt");
  return file;
}

absl::Status AddFile(const fs::path& path, TextFile file, std::vector<TextFile>* files) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) return ErrnoStatus("cannot read", path.string(), error.value());
  file.bytes = static_cast<int64_t>(bytes);
  files->push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status AddFolder(const fs::path& folder, std::vector<TextFile>* files) {
  std::error_code error;
  std::vector<fs::path> paths;
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    if (absl::StartsWith(at->path().filename().string(), ".")) {
      if (at->is_directory(ignored)) at.disable_recursion_pending();
    } else if (at->is_regular_file(ignored)) {
      paths.push_back(at->path());
    }
  }
  if (error) return ErrnoStatus("cannot list folder", folder.string(), error.value());
  std::sort(paths.begin(), paths.end());
  const size_t before = files->size();
  for (const fs::path& path : paths) {
    bool is_known = false;
    TextFile file = ByName(path, &is_known);
    if (is_known) RETURN_IF_ERROR(AddFile(path, std::move(file), files));
  }
  if (files->size() == before)
    return absl::InvalidArgumentError(absl::StrCat("folder '", folder.string(),
                                                   "' holds no .txt or .jsonl file (nor one with "
                                                   ".gz or .zst)"));
  return absl::OkStatus();
}

// A token file, most of all a damaged one that nobody recognised, must not be read as text.
absl::Status RefuseTokenFile(const std::string& path) {
  std::error_code error;
  if (fs::file_size(path, error) < 8 || error) return absl::OkStatus();  // too short to tell
  const auto file = TokenFile::Open(path);
  if (file.ok())
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is a token file, wanted text"));
  return absl::IsDataLoss(file.status()) ? file.status() : absl::OkStatus();
}

std::string PlaceOf(const RawDocument& raw, const TextFile& file) {
  return raw.line == 0 ? absl::StrCat("'", file.path, "'")
                       : absl::StrCat("'", file.path, "' line ", raw.line);
}

}  // namespace

absl::StatusOr<std::vector<TextFile>> FindTextFiles(const std::vector<std::string>& inputs) {
  if (inputs.empty()) return absl::InvalidArgumentError("no text file or folder is given");
  std::vector<TextFile> files;
  for (const std::string& input : inputs) {
    const fs::path path(input);
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status))
      return ErrnoStatus("cannot open", input, error ? error.value() : ENOENT);
    if (fs::is_directory(status)) {
      RETURN_IF_ERROR(AddFolder(path, &files));
      continue;
    }
    for (const absl::string_view other : {".bz2", ".xz", ".lz4", ".br", ".zip", ".parquet"})
      if (absl::EndsWith(input, other))
        return absl::InvalidArgumentError(absl::StrCat("'", input, "': ", other,
                                                       " files are not supported, only plain, .gz "
                                                       "and .zst"));
    RETURN_IF_ERROR(RefuseTokenFile(input));
    bool is_known = false;
    TextFile file = ByName(path, &is_known);
    RETURN_IF_ERROR(AddFile(path, std::move(file), &files));
  }
  return files;
}

DocumentReader::DocumentReader(std::vector<TextFile> files) : files_(std::move(files)) {
  for (const TextFile& file : files_) total_ += file.bytes;
}

int64_t DocumentReader::stored_bytes_read() const {
  return done_ + (stream_ == nullptr ? 0 : stream_->stored_bytes_read());
}

void DocumentReader::CloseFile() {
  done_ += files_[next_].bytes;
  stream_.reset();
  ++next_;
  pending_.clear();
  pending_begin_ = 0;
  line_ = 0;
}

absl::StatusOr<bool> DocumentReader::ReadSome(int64_t bytes, std::vector<RawDocument>* documents) {
  const size_t before = documents->size();
  int64_t room = bytes;
  while (room > 0 && next_ < files_.size()) {
    if (stream_ == nullptr) {
      ASSIGN_OR_RETURN(stream_, ByteStream::Open(files_[next_]));
    }
    if (files_[next_].json_lines) {
      RETURN_IF_ERROR(ReadLines(documents, &room));
    } else {
      RETURN_IF_ERROR(ReadTextFile(documents, &room));
    }
  }
  return documents->size() > before;
}

absl::Status DocumentReader::ReadTextFile(std::vector<RawDocument>* documents, int64_t* room) {
  RawDocument document{.file = static_cast<int>(next_)};
  std::string& text = document.bytes;
  text.reserve(static_cast<size_t>(files_[next_].bytes));
  while (true) {
    const size_t size = text.size();
    text.resize(size + kReadBytes);
    ASSIGN_OR_RETURN(const size_t count, stream_->Read(text.data() + size, kReadBytes));
    text.resize(size + count);
    if (count == 0) break;
  }
  *room -= static_cast<int64_t>(text.size());
  documents->push_back(std::move(document));
  CloseFile();
  return absl::OkStatus();
}

absl::Status DocumentReader::ReadLines(std::vector<RawDocument>* documents, int64_t* room) {
  const auto add = [&](absl::string_view line) {
    ++line_;
    if (absl::StripAsciiWhitespace(line).empty()) return;
    documents->push_back(
        {.bytes = std::string(line), .file = static_cast<int>(next_), .line = line_});
    *room -= static_cast<int64_t>(line.size());
  };
  size_t searched = pending_begin_;
  while (*room > 0) {
    const size_t end = pending_.find('\n', searched);
    if (end != std::string::npos) {
      add(absl::string_view(pending_).substr(pending_begin_, end - pending_begin_));
      searched = pending_begin_ = end + 1;
      continue;
    }
    pending_.erase(0, pending_begin_);
    pending_begin_ = 0;
    searched = pending_.size();
    pending_.resize(searched + kReadBytes);
    ASSIGN_OR_RETURN(const size_t count, stream_->Read(pending_.data() + searched, kReadBytes));
    pending_.resize(searched + count);
    if (count == 0) {
      if (!pending_.empty()) add(pending_);
      CloseFile();
      break;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<DocumentText> ExtractText(RawDocument raw, const TextFile& file, bool strict) {
  DocumentText result;
  if (!IsValidUtf8(raw.bytes)) {
    if (strict)
      return absl::InvalidArgumentError(
          absl::StrCat(PlaceOf(raw, file), " has bytes that are not UTF-8"));
    std::string replaced;
    result.num_replaced = AppendAsValidUtf8(raw.bytes, &replaced);
    raw.bytes = std::move(replaced);
  }
  if (raw.line == 0) {
    result.text = std::move(raw.bytes);
    return result;
  }
  absl::StatusOr<JsonLine> line = ParseJsonLine(raw.bytes);
  if (!line.ok())
    return absl::InvalidArgumentError(
        absl::StrCat(PlaceOf(raw, file), ": ", line.status().message()));
  if (!line->text)
    return absl::InvalidArgumentError(absl::StrCat(PlaceOf(raw, file), " has no field \"text\""));
  result.text = *std::move(line->text);
  return result;
}

}  // namespace sluice::data
