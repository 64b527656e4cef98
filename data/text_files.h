// Finds and reads the text of a corpus: plain or compressed, one document per text file or per line
// of JSON.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sluice::data {

struct TextFile {
  std::string path;
  bool json_lines = false;  // .jsonl: one {"text": ...} a line; else the file is one document
  enum class Compression : uint8_t { kNone, kGzip, kZstd } compression = Compression::kNone;
  int64_t bytes = 0;  // as stored
};

// The files that `inputs` name. A folder stands for the .txt and .jsonl files below it, each also
// with .gz or .zst, sorted by path, hidden ones left out; any other file is text unless its name
// says .jsonl. NOT_FOUND; INVALID_ARGUMENT: nothing named, a folder without such files, a
// compression that is not supported, an output of ours (a token file).
absl::StatusOr<std::vector<TextFile>> FindTextFiles(const std::vector<std::string>& inputs);

// The bytes of a file, decompressed as they are read. One thread.
class ByteStream {
 public:
  static absl::StatusOr<std::unique_ptr<ByteStream>> Open(const TextFile& file);
  virtual ~ByteStream() = default;
  // Fills up to `size` bytes; 0 is the end. DATA_LOSS: truncated or damaged compressed data.
  virtual absl::StatusOr<size_t> Read(char* buffer, size_t size) = 0;
  virtual int64_t stored_bytes_read() const = 0;  // of the file, for a progress bar
};

struct RawDocument {  // as read: not parsed, not checked
  std::string bytes;  // a whole text file, or one line of JSON without its line end
  int file = 0;       // index into the files
  int64_t line = 0;   // from 1; 0 for a text file
};

// The documents of files, in order. One thread.
class DocumentReader {
 public:
  explicit DocumentReader(std::vector<TextFile> files);

  // Appends documents until they hold `bytes` or more, or all are read. False: nothing was left.
  // Blank lines of JSON files are passed over.
  absl::StatusOr<bool> ReadSome(int64_t bytes, std::vector<RawDocument>* documents);

  const std::vector<TextFile>& files() const { return files_; }
  int64_t stored_bytes_total() const { return total_; }
  int64_t stored_bytes_read() const;

 private:
  absl::Status ReadTextFile(std::vector<RawDocument>* documents, int64_t* room);
  absl::Status ReadLines(std::vector<RawDocument>* documents, int64_t* room);
  void CloseFile();

  const std::vector<TextFile> files_;
  int64_t total_ = 0, done_ = 0;  // stored bytes: of all files, of those closed
  size_t next_ = 0;               // the file that is open or comes next
  std::unique_ptr<ByteStream> stream_;
  std::string pending_;  // read, but not yet a whole line
  size_t pending_begin_ = 0;
  int64_t line_ = 0;
};

struct DocumentText {
  std::string text;          // valid UTF-8
  int64_t num_replaced = 0;  // places that were not UTF-8 and became U+FFFD
};
// The text of a document of `file`. INVALID_ARGUMENT names file and line: no JSON object with a
// "text", or, if `strict`, bytes that are not UTF-8.
absl::StatusOr<DocumentText> ExtractText(RawDocument raw, const TextFile& file, bool strict);

}  // namespace sluice::data
