// A Hugging Face model directory as it was found: which tensor is in which file.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoints/file_system.h"
#include "checkpoints/safetensors.h"

namespace sluice::checkpoints {

class SourceModel {  // one thread
 public:
  // Reads model.safetensors.index.json and every file that it names, or model.safetensors alone:
  // headers only. NOT_FOUND: neither is there, or a file of the index. DATA_LOSS names tensor and
  // file: in the index and not in the file, in a file and not in the index, in two files; a file
  // name that leaves the directory; and what SafetensorsReader::Open says of a damaged file.
  static absl::StatusOr<std::unique_ptr<SourceModel>> Open(FileSystem& files,
                                                           const std::string& dir);

  struct File {
    std::string name;
    std::unique_ptr<SafetensorsReader> reader;
  };
  const std::vector<File>& files() const { return files_; }  // ascending by name

  const SafetensorsEntry* Find(const std::string& tensor) const;  // null: none
  // Bytes [begin, begin + out.size()) of a tensor that is there, cut at elements.
  absl::Status Read(const std::string& tensor, int64_t begin, std::span<char> out);
  int64_t total_bytes() const { return total_bytes_; }  // of all tensors

 private:
  struct Place {
    int file = 0;
    const SafetensorsEntry* entry = nullptr;
  };
  absl::Status Add(FileSystem& files, const std::string& dir, const std::string& name);

  std::vector<File> files_;
  std::map<std::string, Place> places_;
  int64_t total_bytes_ = 0;
};

}  // namespace sluice::checkpoints
