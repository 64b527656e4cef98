// The account of an import or export: every tensor of both sides exactly once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::checkpoints {

struct CertifiedTensor {
  std::string disk;        // name in the Hugging Face directory
  std::string checkpoint;  // name in the checkpoint; empty for what it does not hold
  std::string dtype;       // on disk, as safetensors calls it
  std::vector<int64_t> shape;
  std::string fate;  // "stored", "copy of X", "ignored: ...", "source bytes", "rounded", ...
  // Import: of the values that training starts with. Export: of what a reader of the directory
  // gets. Largest |difference| to the exact values of the other side.
  double max_error = 0;
  uint32_t crc32c = 0;  // of the tensor's bytes on disk
};

struct Certificate {
  std::string title;  // "import of X to Y"
  std::vector<CertifiedTensor> tensors;
  int64_t parameters = 0;  // weights and gate bias; no copies, no scales
  int64_t bytes = 0;       // of all tensors on disk

  // 32 hexadecimal digits over all lines "crc32c name dtype shape", ascending by name: equal for
  // equal directories, however they are cut into files.
  std::string Hash() const;
  double MaxError() const;
  std::string ToJson() const;  // one object, a tensor a line
  std::string ToText() const;
};

}  // namespace sluice::checkpoints
