// Training and evaluation sequences from token files. A batch is a pure function of the data set,
// the options and the sample numbers: there is no position to save, and any rank may read any part.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/fim.h"

namespace sluice::data {

// Where documents begin, for attention and targets that must stop there. Positions are in
// [0, length], ascending, the first is always 0 (which may lie in the middle of a document). A
// position p > 0 says that token p, the target of input p - 1, belongs to another document than
// token p - 1.
struct DocumentStarts {
  std::vector<int32_t> positions;  // of all sequences, one after the other
  std::vector<int32_t> begin;      // [count + 1]: of sequence i [begin[i], begin[i + 1])
  std::span<const int32_t> Of(int sequence) const {
    return std::span<const int32_t>(positions).subspan(
        static_cast<size_t>(begin[sequence]),
        static_cast<size_t>(begin[sequence + 1] - begin[sequence]));
  }
};

struct DataSetInfo {
  int vocab_size = 0;
  int eos_id = -1;
  std::string tokenizer_hash;
  int64_t num_tokens = 0, num_documents = 0, text_bytes = 0;
  std::string identity;  // SHA-256 over the checksums of all files and the weights, 64 hex digits
};

class BatchSource {  // any thread
 public:
  virtual ~BatchSource() = default;
  virtual int sequence_length() const = 0;  // L: inputs 0..L-1, targets 1..L
  virtual int64_t num_samples_per_epoch() const = 0;
  virtual const DataSetInfo& info() const = 0;

  // Fills `tokens` [count, L + 1] with samples first_sample .. first_sample + count - 1; what a
  // sample holds does not depend on first_sample and count. `starts` (may be null) gets the
  // document starts. DATA_LOSS: a token file is damaged; it names file and chunk. CHECKs the size
  // of `tokens` and that first_sample and count are not negative.
  virtual absl::Status Read(int64_t first_sample, int count, std::span<int32_t> tokens,
                            DocumentStarts* starts = nullptr) const = 0;
  // How many targets of a sample are real. L, but for the last sample of a sequential source (whose
  // other targets are padding with id 0) and all samples behind it (which are padding only: 0).
  virtual int64_t NumTargets(int64_t sample) const = 0;
  // Fills `is_target` [count, L + 1] for the same samples: 1 where a token is a target of the loss,
  // 0 where it is not. Token 0 of a sample never is; without a mask of its own, a source has the
  // NumTargets tokens behind it. DATA_LOSS as Read.
  virtual absl::Status ReadTargetMask(int64_t first_sample, int count,
                                      std::span<uint8_t> is_target) const;
};

struct BatchSourceOptions {
  struct Source {
    std::vector<std::string> paths;  // token files, read as one stream
    double weight = 0;               // share of the samples; 0 for all sources: by size
  };
  std::vector<Source> sources;
  int sequence_length = 0;
  uint64_t seed = 0;
  bool shuffle = true;
  double fim_rate = 0;         // share of the documents in fill-in-the-middle form
  FimTokens fim_tokens;        // needed for fim_rate > 0
  std::string tokenizer_hash;  // the files must have been made with this one; empty: any
};

// The endless training source. Documents are packed: sample i of a stream of T tokens covers tokens
// [i L, i L + L], so the stream has floor((T - 1) / L) samples an epoch, each token is a target
// once (but for the first and at most L - 1 at the end), and each epoch has its own order. With
// weights, samples are dealt to sources as Mixture says and each source has epochs of its own;
// without, all files form one stream. With fim_rate > 0 a rearranged document grows by three tokens
// that push others off its sequence's end.
// INVALID_ARGUMENT: an option out of range, files of different or unwanted tokenizers, a source
// with fewer tokens than one sequence needs. Else what TokenFile::Open returns.
absl::StatusOr<std::unique_ptr<BatchSource>> MakeBatchSource(const BatchSourceOptions& options);

// The evaluation source: all files in order, each token but the very first a target exactly once;
// the last sample is padded. INVALID_ARGUMENT and others as above; at least two tokens are needed.
absl::StatusOr<std::unique_ptr<BatchSource>> MakeSequentialSource(
    const std::vector<std::string>& paths, int sequence_length,
    const std::string& tokenizer_hash = "");

}  // namespace sluice::data
