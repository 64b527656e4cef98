// Imports and exports hold a part of one tensor at a time, however large model and tensors are.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "checkpoints/huggingface/export.h"
#include "checkpoints/huggingface/import.h"
#include "checkpoints/reader.h"
#include "tests/checkpoints/huggingface_directory.h"

namespace sluice::checkpoints {
namespace {

// What the C library has handed out. Zero under a sanitizer, whose heap is its own.
int64_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

// The most that is on the heap beyond what was there at first, looked at with every piece that a
// copy of bytes reports.
class HeapWatch {
 public:
  ProgressFunction Look() {
    return [this](int64_t /*done*/, int64_t /*total*/) {
      most_ = std::max(most_, HeapBytes() - start_);
      ++looks_;
    };
  }
  int64_t most() const { return most_; }
  int64_t looks() const { return looks_; }

 private:
  const int64_t start_ = HeapBytes();
  int64_t most_ = 0, looks_ = 0;
};

// On the disk, since a file system in memory is on the heap.
class Folder {
 public:
  Folder() { EXPECT_NE(mkdtemp(path_.data()), nullptr) << path_; }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string File(const std::string& name) const { return JoinPath(path_, name); }

 private:
  std::string path_ = testing::TempDir() + "/sluice_memory_XXXXXX";
};

// 4096 x 2048: 16 MiB in BF16, 8 in E4M3, 32 in FP32.
const std::vector<int64_t> kLarge = {4096, 2048}, kLargeBlocks = {32, 16};
constexpr int64_t kTensorBytes = 8 << 20;  // of the smallest of them
constexpr int kMatrices = 3;

std::string NameOf(int i) { return absl::StrCat("m", i, ".weight"); }

// A BF16 and an FP8 matrix take turns; all are finite.
std::vector<MappedTensor> WriteLarge(FileSystem& files, const std::string& folder) {
  std::vector<MappedTensor> model;
  std::vector<SafetensorsEntry> entries;
  for (int i = 0; i < kMatrices; ++i) {
    const bool is_fp8 = i % 2 == 1;
    model.push_back({NameOf(i), NameOf(i), kLarge, MappedTensor::Role::kWeight, true});
    entries.push_back(
        {.name = NameOf(i), .dtype = is_fp8 ? DType::kE4M3 : DType::kBF16, .shape = kLarge});
    if (!is_fp8) continue;
    entries.push_back(
        {.name = NameOf(i) + "_scale_inv", .dtype = DType::kF32, .shape = kLargeBlocks});
  }
  const std::string megabyte(1 << 20, '\x30');  // E4M3 0.5, BF16 6.4e-10
  const std::vector<float> scales(32 * 16, 0.25f);
  auto writer = SafetensorsWriter::Create(files, JoinPath(folder, "model.safetensors"), entries);
  EXPECT_TRUE(writer.ok()) << writer.status();
  for (const SafetensorsEntry& entry : entries) {
    if (entry.dtype == DType::kF32) {
      EXPECT_TRUE((*writer)->Append(scales.data(), std::ssize(scales) * 4).ok());
      continue;
    }
    const int64_t bytes = 4096 * 2048 * static_cast<int64_t>(kernels::SizeOf(entry.dtype));
    for (int64_t at = 0; at < bytes; at += std::ssize(megabyte))
      EXPECT_TRUE((*writer)->Append(megabyte.data(), std::ssize(megabyte)).ok());
  }
  EXPECT_TRUE((*writer)->Finish().ok());
  return model;
}

// Headers, plans, receipts: kilobytes for so few tensors.
constexpr int64_t kBookkeeping = 256 << 10;
// Of an export: 128 rows of values and what their codes stand for (1 MiB each), the codes (1/4
// MiB), a chunk of the checkpoint (1 MiB), 2^16 stored elements (1/8 MiB); or in place of the first
// three 2^20 elements to be copied (2 MiB in BF16).
constexpr int64_t kMostExporting = (4 << 20) - kBookkeeping;
static_assert(kMostExporting + kBookkeeping <= kTensorBytes / 2);

TEST(HuggingFaceMemory, ImportsAndExportsHoldAPartOfOneTensor) {
  const Folder dir;
  const auto files = CreatePosixFileSystem();
  for (const char* folder : {"hf", "run", "bytes", "fp8"})
    ASSERT_OK(files->MakeDirectory(dir.File(folder)));
  ImportOptions import;
  import.from = dir.File("hf");
  import.to = dir.File("run/checkpoints");
  import.tensors = WriteLarge(*files, import.from);
  import.buffer_bytes = 1 << 20;
  HeapWatch importing;
  import.progress = importing.Look();
  const auto imported = Import(*files, import);
  ASSERT_TRUE(imported.ok()) << imported.status();
  // The buffer, and nothing else of the size of a tensor.
  EXPECT_LE(importing.most(), import.buffer_bytes + kBookkeeping);
  EXPECT_GE(importing.looks(), 2 * (16 + 8 + 16));  // megabytes of two passes

  auto reader = CheckpointReader::Open(*files, imported->generation);
  ASSERT_TRUE(reader.ok()) << reader.status();
  for (const auto& [folder, type] :
       {std::pair{"bytes", ExportType::kSource}, {"fp8", ExportType::kFp8}}) {
    ExportOptions options;
    options.from = reader->get();
    options.to = dir.File(folder);
    options.tensors = import.tensors;
    options.type = type;
    HeapWatch exporting;
    options.progress = exporting.Look();
    ASSERT_TRUE(Export(*files, options).ok());
    EXPECT_LE(exporting.most(), kMostExporting + kBookkeeping) << folder;
    EXPECT_GE(exporting.looks(), 25) << folder;
  }
}

}  // namespace
}  // namespace sluice::checkpoints
