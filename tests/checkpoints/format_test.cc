// The worked example of checkpoints/FORMAT.md: what it shows is what is written, and it stays
// readable.
#include <fstream>
#include <sstream>

#include "checkpoints/digest.h"
#include "checkpoints/manifest.h"
#include "checkpoints/memory_file_system.h"
#include "tests/checkpoints/test_checkpoint.h"
#include "tests/support/source_path.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

constexpr char kGeneration[] = "/checkpoints/step-0000000010-00ff00ff00ff00ff";

std::string FormatText() {
  std::ifstream file(testing::SourcePath("checkpoints/FORMAT.md"));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// As `xxd -g 1 -c 16` without its last column: offset, then bytes.
std::string HexDump(const std::string& bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 16) {
    absl::StrAppend(&text, absl::Hex(i, absl::kZeroPad4), " ");
    for (const char c : bytes.substr(i, 16))
      absl::StrAppend(&text, " ", absl::Hex(static_cast<uint8_t>(c), absl::kZeroPad2));
    text += "\n";
  }
  return text;
}

// The bytes of the dump that follows "NAME:" in FORMAT.md.
std::string BytesOfDump(const std::string& text, const std::string& name) {
  size_t at = text.find("\n" + name + ":\n");
  EXPECT_NE(at, std::string::npos) << name;
  std::istringstream lines(text.substr(at + name.size() + 3));
  std::string bytes, line;
  while (std::getline(lines, line) && line.size() > 6 && line[4] == ' ') {
    std::istringstream numbers(line.substr(6));
    for (std::string number; numbers >> number;)
      bytes += static_cast<char>(std::stoi(number, nullptr, 16));
  }
  return bytes;
}

// Two ranks: a bf16 matrix [2, 3] cut after five elements, and an i64 scalar on rank 1.
absl::StatusOr<std::string> SaveExample(FileSystem& files) {
  const uint16_t w[] = {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0};  // 1 2 3 4 5 6
  const int64_t count = 1234;
  std::vector<ShardReceipt> receipts;
  for (int rank = 0; rank < 2; ++rank) {
    auto writer = CheckpointWriter::Begin(files, "/checkpoints", 10, "00ff00ff00ff00ff", rank,
                                          {.num_writers = 2, .chunk_bytes = 8});
    if (!writer.ok()) return writer.status();
    TensorPiece piece{"weights/w", DType::kBF16, {2, 3}, rank == 0 ? 0 : 5, rank == 0 ? 5 : 6};
    if (absl::Status s = (*writer)->Add(piece, w + piece.begin); !s.ok()) return s;
    if (rank == 1) {
      const TensorPiece scalar = WholeTensor("router/count", DType::kI64, {});
      if (absl::Status s = (*writer)->Add(scalar, &count); !s.ok()) return s;
    }
    auto receipt = (*writer)->Finish();
    if (!receipt.ok()) return receipt.status();
    receipts.push_back(*receipt);
  }
  RunMetadata metadata;
  (*metadata.mutable_state())["next_sample"] = "160";
  metadata.set_mesh("data 2");
  metadata.set_created_unix_ms(1700000000000);
  return Commit(files, "/checkpoints", 10, "00ff00ff00ff00ff", receipts, metadata);
}

constexpr const char* kNames[] = {"rank-00000.shard", "rank-00001.shard", "MANIFEST"};

TEST(Format, ExampleShowsWhatIsWritten) {
  MemoryFileSystem files;
  const auto saved = SaveExample(files);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(*saved, kGeneration);
  const std::string text = FormatText();
  for (const char* name : kNames) {
    const std::string shown =
        absl::StrCat("\n", name, ":\n", HexDump(files.Contents(JoinPath(*saved, name))), "\n");
    EXPECT_NE(text.find(shown), std::string::npos) << shown;
  }
  auto reader = CheckpointReader::Open(files, *saved);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto digest = DigestOfCheckpoint(**reader);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_NE(text.find(digest->ToString()), std::string::npos) << digest->ToString();
}

// The bytes of the document, whatever the writer does by then: format version 1 can be read for
// ever.
TEST(Format, ExampleCanBeRead) {
  MemoryFileSystem files;
  ASSERT_OK(files.MakeDirectory("/checkpoints"));
  ASSERT_OK(files.MakeDirectory(kGeneration));
  const std::string text = FormatText();
  for (const char* name : kNames) {
    const std::string path = JoinPath(kGeneration, name);
    ASSERT_TRUE(files.CreateFile(path).ok());
    files.Overwrite(path, BytesOfDump(text, name));
  }
  ASSERT_OK(Verify(files, kGeneration));
  auto reader = CheckpointReader::Open(files, kGeneration);
  ASSERT_TRUE(reader.ok()) << reader.status();
  uint16_t w[4] = {};
  ASSERT_OK((*reader)->Read({"weights/w", DType::kBF16, {2, 3}, 2, 6}, w));
  EXPECT_EQ(std::vector<uint16_t>(w, w + 4),
            (std::vector<uint16_t>{0x4040, 0x4080, 0x40a0, 0x40c0}));
  int64_t count = 0;
  ASSERT_OK((*reader)->Read(WholeTensor("router/count", DType::kI64, {}), &count));
  EXPECT_EQ(count, 1234);
  EXPECT_EQ((*reader)->step(), 10);
  EXPECT_EQ((*reader)->metadata().state().at("next_sample"), "160");
}

}  // namespace
}  // namespace sluice::checkpoints
