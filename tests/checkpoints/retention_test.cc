#include "checkpoints/retention.h"

#include "checkpoints/manifest.h"
#include "checkpoints/memory_file_system.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

constexpr char kDir[] = "/checkpoints";

std::string SaveStep(MemoryFileSystem& files, int64_t step, const std::string& attempt = "a") {
  const auto saved = Save(files, kDir, step, attempt, {});
  EXPECT_TRUE(saved.ok()) << saved.status();
  return *saved;
}

std::vector<int64_t> Steps(MemoryFileSystem& files) {
  std::vector<int64_t> steps;
  const auto generations = ListGenerations(files, kDir);
  if (!generations.ok()) return steps;
  for (const Generation& generation : *generations) steps.push_back(generation.step);
  return steps;
}

void Flip(MemoryFileSystem& files, const std::string& path) {
  std::string bytes = files.Contents(path);
  bytes[5] = static_cast<char>(bytes[5] ^ 1);
  files.Overwrite(path, bytes);
}

TEST(Retention, KeepsTheNewestAndSaysWhatItDeletes) {
  MemoryFileSystem files;
  std::string last;
  for (const int64_t step : {10, 20, 30, 40}) last = SaveStep(files, step);
  ASSERT_OK(files.MakeDirectory("/checkpoints/my own notes"));
  std::string log;
  ASSERT_OK(ApplyRetention(files, kDir, last, 3,
                           [&](absl::string_view message) { absl::StrAppend(&log, message); }));
  EXPECT_EQ(Steps(files), (std::vector<int64_t>{40, 30, 20}));
  EXPECT_EQ(log, "checkpoint /checkpoints/step-0000000010-a is deleted, 3 newer ones stay");
  EXPECT_TRUE(files.ListDirectory("/checkpoints/my own notes").ok());
}

TEST(Retention, DeletesNothingUnlessTheNewestVerifies) {
  MemoryFileSystem files;
  std::string last;
  for (const int64_t step : {10, 20, 30}) last = SaveStep(files, step);
  Flip(files, absl::StrCat(last, "/rank-00000.shard"));
  EXPECT_TRUE(absl::IsDataLoss(ApplyRetention(files, kDir, last, 1, NoLog)));
  EXPECT_EQ(Steps(files), (std::vector<int64_t>{30, 20, 10}));
}

TEST(Retention, DoesNotCountDamagedOnes) {
  MemoryFileSystem files;
  std::string last;
  for (const int64_t step : {10, 20, 30, 40}) last = SaveStep(files, step);
  Flip(files, "/checkpoints/step-0000000030-a/MANIFEST");
  ASSERT_OK(files.RemoveFile("/checkpoints/step-0000000020-a/rank-00001.shard"));
  ASSERT_OK(ApplyRetention(files, kDir, last, 2, NoLog));
  EXPECT_EQ(Steps(files), (std::vector<int64_t>{40, 30, 20, 10}));
}

// A run whose newer generations are damaged goes on from an older one. What it saves then must not
// be deleted as "older than three newer ones" that cannot be loaded.
TEST(Retention, NeverDeletesWhatWasJustSaved) {
  MemoryFileSystem files;
  for (const int64_t step : {10, 20, 30, 40}) SaveStep(files, step);
  for (const char* step : {"20", "30", "40"})
    Flip(files, absl::StrCat("/checkpoints/step-00000000", step, "-a/rank-00000.shard"));
  const std::string saved = SaveStep(files, 15, "b");
  ASSERT_OK(ApplyRetention(files, kDir, saved, 1, NoLog));
  EXPECT_EQ(Steps(files), (std::vector<int64_t>{40, 30, 20, 15}));
  EXPECT_EQ(FindNewestGood(files, kDir, NoLog)->step, 15);
}

TEST(Retention, OfTwoAttemptsAtAStepKeepsTheLaterOne) {
  MemoryFileSystem files;
  SaveStep(files, 10, "z");
  RunMetadata later = MakeMetadata(10);
  later.set_created_unix_ms(later.created_unix_ms() + 1);
  auto writer = CheckpointWriter::Begin(files, kDir, 10, "b", 0);
  const std::vector<ShardReceipt> receipts = {*(*writer)->Finish()};
  const std::string saved = *Commit(files, kDir, 10, "b", receipts, later);
  EXPECT_EQ(FindNewestGood(files, kDir, NoLog)->attempt, "b");
  ASSERT_OK(ApplyRetention(files, kDir, saved, 1, NoLog));
  EXPECT_EQ(FindNewestGood(files, kDir, NoLog)->attempt, "b");
  EXPECT_EQ(Steps(files), (std::vector<int64_t>{10}));
}

TEST(RemoveUnfinished, TakesOnlyWhatHasNoManifest) {
  MemoryFileSystem files;
  ASSERT_OK(RemoveUnfinished(files, kDir, NoLog));  // nothing there yet
  SaveStep(files, 10);
  SaveStep(files, 20);
  Flip(files, "/checkpoints/step-0000000020-a/MANIFEST");  // damaged is not unfinished
  ASSERT_TRUE(CheckpointWriter::Begin(files, kDir, 30, "dead", 0).ok());
  ASSERT_OK(files.MakeDirectory("/checkpoints/other"));
  ASSERT_OK(RemoveUnfinished(files, kDir, NoLog));
  EXPECT_EQ(files.ListDirectory(kDir).value(),
            (std::vector<std::string>{"other", "step-0000000010-a", "step-0000000020-a"}));
}

TEST(FreeSpace, RequiredBytesCoverWhatASaveTakes) {
  for (const int num_pieces : {1, 7, 40}) {
    MemoryFileSystem files;
    const auto before = files.FreeBytes("/");
    ASSERT_TRUE(Save(files, kDir, 1, "a", {.num_pieces = num_pieces, .chunk_bytes = 1 << 20}).ok());
    const int64_t taken = *before - *files.FreeBytes("/");
    std::vector<TensorPiece> pieces;
    for (const TestTensor& tensor : MakeState(1)) {
      for (int i = 0; i < num_pieces; ++i) pieces.push_back(Part(tensor.whole, i, num_pieces));
    }
    EXPECT_GE(RequiredBytes(pieces), taken) << num_pieces;
    EXPECT_LT(RequiredBytes(pieces), taken + (1 << 17)) << num_pieces;
  }
}

TEST(FreeSpace, IsCheckedWhereTheDirectoryWillBe) {
  MemoryFileSystem files(3 << 20);
  ASSERT_OK(CheckFreeSpace(files, "/not/yet/there", 3 << 20));
  const absl::Status status = CheckFreeSpace(files, "/not/yet/there", (3 << 20) + 1);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "checkpoints in /not/yet/there need 3.0 MiB, only 3.0 MiB are free");
}

}  // namespace
}  // namespace sluice::checkpoints
