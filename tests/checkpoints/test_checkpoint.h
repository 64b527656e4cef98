// A small model state with ugly shapes, and ways to save and load it in pieces.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoints/commit.h"
#include "checkpoints/reader.h"
#include "checkpoints/writer.h"
#include "kernels/core/philox.h"

#define ASSERT_OK(expression)                                   \
  do {                                                          \
    const absl::Status sluice_test_status = (expression);       \
    ASSERT_TRUE(sluice_test_status.ok()) << sluice_test_status; \
  } while (false)

namespace sluice::checkpoints {

struct TestTensor {
  TensorPiece whole;
  std::vector<char> bytes;
};
using TestState = std::vector<TestTensor>;

// The state of a run at a step: the same tensors at every step, other contents.
inline const TestState& MakeState(int64_t step) {
  using kernels::DType;
  static std::map<int64_t, TestState> made;  // the crash tests ask thousands of times
  TestState& state = made[step];
  if (!state.empty()) return state;
  for (const TensorPiece& whole : {
           WholeTensor("weights/embed", DType::kBF16, {13, 7}),
           WholeTensor("weights/experts.0", DType::kBF16, {3, 5, 2}),
           WholeTensor("master/embed", DType::kF32, {13, 7}),
           WholeTensor("adam_m/embed", DType::kF32, {13, 7}),
           WholeTensor("router/bias", DType::kF64, {5}),
           WholeTensor("router/counts", DType::kI64, {1}),
           WholeTensor("scalar", DType::kF32, {}),
           WholeTensor("nothing", DType::kI32, {0, 4}),
           WholeTensor("bytes", DType::kU8, {31}),
       }) {
    std::vector<char> bytes(static_cast<size_t>(whole.bytes()));
    for (size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<char>(Philox(static_cast<uint64_t>(step), i, state.size())[0] >> 5);
    }
    state.push_back({whole, std::move(bytes)});
  }
  return state;
}

struct SaveOptions {
  int num_writers = 2;
  int num_pieces = 1;        // each tensor is cut into so many, dealt out to the writers in turn
  int64_t chunk_bytes = 64;  // small, so that tensors have several
};

inline TensorPiece Part(const TensorPiece& whole, int i, int n) {
  TensorPiece part = whole;
  part.begin = whole.end * i / n;
  part.end = whole.end * (i + 1) / n;
  return part;
}

inline RunMetadata MakeMetadata(int64_t step) {
  RunMetadata metadata;
  (*metadata.mutable_state())["next_sample"] = absl::StrCat(step * 16);
  metadata.set_config_textproto("seed: 7");
  metadata.set_mesh("pipe 1 data 2");
  metadata.set_created_unix_ms(1700000000000 + step);
  return metadata;
}

// All writers of a save one after the other, then the commit; the first error ends it.
inline absl::StatusOr<std::string> Save(FileSystem& files, const std::string& dir, int64_t step,
                                        const std::string& attempt, const SaveOptions& options) {
  const TestState& state = MakeState(step);
  std::vector<ShardReceipt> receipts;
  for (int writer = 0; writer < options.num_writers; ++writer) {
    absl::StatusOr<std::unique_ptr<CheckpointWriter>> shard = CheckpointWriter::Begin(
        files, dir, step, attempt, writer,
        {.num_writers = options.num_writers, .chunk_bytes = options.chunk_bytes});
    if (!shard.ok()) return shard.status();
    for (size_t t = 0; t < state.size(); ++t) {
      for (int p = 0; p < options.num_pieces; ++p) {
        if ((static_cast<int>(t) + p) % options.num_writers != writer) continue;
        const TensorPiece part = Part(state[t].whole, p, options.num_pieces);
        const size_t offset = static_cast<size_t>(part.begin) * kernels::SizeOf(part.dtype);
        if (absl::Status s = (*shard)->Add(part, state[t].bytes.data() + offset); !s.ok()) return s;
      }
    }
    absl::StatusOr<ShardReceipt> receipt = (*shard)->Finish();
    if (!receipt.ok()) return receipt.status();
    ShardReceipt travelled;  // as between ranks
    if (!travelled.ParseFromString(receipt->SerializeAsString()))
      return absl::InternalError("a receipt cannot be parsed");
    receipts.push_back(travelled);
  }
  return Commit(files, dir, step, attempt, receipts, MakeMetadata(step));
}

// Reads every tensor in `num_pieces` pieces; errors end the test.
inline TestState Load(FileSystem& files, const std::string& generation_dir, int num_pieces) {
  TestState state;
  auto reader = CheckpointReader::Open(files, generation_dir);
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return state;
  for (const TestTensor& tensor : MakeState(0)) {
    std::vector<char> bytes(tensor.bytes.size(), 'x');
    for (int i = 0; i < num_pieces; ++i) {
      const TensorPiece part = Part(tensor.whole, i, num_pieces);
      const absl::Status read = (*reader)->Read(
          part, bytes.data() + static_cast<size_t>(part.begin) * kernels::SizeOf(part.dtype));
      EXPECT_TRUE(read.ok()) << read;
    }
    state.push_back({tensor.whole, std::move(bytes)});
  }
  return state;
}

inline bool SameBytes(const TestState& a, const TestState& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const TestTensor& x, const TestTensor& y) { return x.bytes == y.bytes; });
}

inline void NoLog(absl::string_view) {}

}  // namespace sluice::checkpoints
