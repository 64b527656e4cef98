// What Commit and the writer refuse.
#include "checkpoints/commit.h"

#include <set>

#include "checkpoints/manifest.h"
#include "checkpoints/memory_file_system.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

// One writer a list of pieces; then the commit.
absl::Status SavePieces(MemoryFileSystem& files,
                        const std::vector<std::vector<TensorPiece>>& pieces_of_writer,
                        int num_writers = 0) {
  const std::vector<char> data(1 << 16);
  std::vector<ShardReceipt> receipts;
  for (size_t i = 0; i < pieces_of_writer.size(); ++i) {
    auto writer = CheckpointWriter::Begin(files, "/c", 1, "a", static_cast<int>(i),
                                          {.num_writers = num_writers, .chunk_bytes = 16});
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const TensorPiece& piece : pieces_of_writer[i]) {
      const absl::Status added = (*writer)->Add(piece, data.data());
      EXPECT_TRUE(added.ok()) << added;
    }
    receipts.push_back(*(*writer)->Finish());
  }
  return Commit(files, "/c", 1, "a", receipts, {}).status();
}

TensorPiece W(int64_t begin, int64_t end) { return {"w", DType::kF32, {10, 10}, begin, end}; }

void ExpectRefused(const std::vector<std::vector<TensorPiece>>& pieces, const std::string& why,
                   int num_writers = 0) {
  MemoryFileSystem files;
  const absl::Status status = SavePieces(files, pieces, num_writers);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_EQ(status.message(), why);
  EXPECT_TRUE(absl::IsNotFound(FindNewestGood(files, "/c", NoLog).status()));
}

TEST(Commit, RefusesGapsOverlapsAndContradictions) {
  ExpectRefused({{W(0, 40)}, {W(41, 100)}}, "tensor w: elements [40, 41) of 100 are missing");
  ExpectRefused({{W(1, 100)}}, "tensor w: elements [0, 1) of 100 are missing");
  ExpectRefused({{W(0, 99)}}, "tensor w: elements [99, 100) of 100 are missing");
  ExpectRefused({{W(0, 0)}}, "tensor w: elements [0, 100) of 100 are missing");
  ExpectRefused({{W(0, 40)}, {W(39, 100)}}, "tensor w: elements [39, 40) are there more than once");
  ExpectRefused({{W(0, 100)}, {W(20, 30)}}, "tensor w: elements [20, 30) are there more than once");
  ExpectRefused({{W(0, 100)}, {W(0, 100)}},
                "tensor w: elements [0, 100) are listed after [0, 100)");
  ExpectRefused({{W(0, 50)}, {{"w", DType::kF32, {100}, 50, 100}}},
                "tensor w: writer 1 says f32 [100], another one f32 [10, 10]");
  ExpectRefused({{W(0, 50)}, {{"w", DType::kI32, {10, 10}, 50, 100}}},
                "tensor w: writer 1 says i32 [10, 10], another one f32 [10, 10]");
  ExpectRefused({{W(0, 50)}, {W(50, 100)}}, "writer 2 of 3 is missing", 3);
}

TEST(Commit, TakesPiecesInAnyOrderAndEmptyOnes) {
  MemoryFileSystem files;
  ASSERT_OK(SavePieces(files, {{W(70, 100), W(0, 0), W(3, 5)}, {}, {W(5, 70), W(0, 3)}}, 3));
  ASSERT_OK(Verify(files, "/c/step-0000000001-a"));
}

TEST(Commit, RefusesReceiptsOfAnotherAttemptOrTwice) {
  MemoryFileSystem files;
  auto writer = CheckpointWriter::Begin(files, "/c", 1, "a", 0);
  const ShardReceipt receipt = *(*writer)->Finish();
  const std::vector<ShardReceipt> one = {receipt}, two = {receipt, receipt};
  EXPECT_EQ(Commit(files, "/c", 1, "b", one, {}).status().message(),
            "writer 0 wrote step-0000000001-a, not step-0000000001-b");
  EXPECT_EQ(Commit(files, "/c", 2, "a", one, {}).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(Commit(files, "/c", 1, "a", two, {}).status().message(), "writer 0 is there twice");
  EXPECT_EQ(Commit(files, "/c", 1, "a", {}, {}).status().code(), absl::StatusCode::kInternal);
}

TEST(Commit, RefusesFilesItCannotSee) {
  MemoryFileSystem mine, yours;  // two hosts without a common disk
  auto writer = CheckpointWriter::Begin(yours, "/c", 1, "a", 0);
  const std::vector<ShardReceipt> receipts = {*(*writer)->Finish()};
  const absl::Status status = Commit(mine, "/c", 1, "a", receipts, {}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(status.message().find("is the directory shared?"), std::string::npos);
}

TEST(Writer, RefusesAnAttemptThatWasUsedBefore) {
  MemoryFileSystem files;
  auto first = CheckpointWriter::Begin(files, "/c", 1, "a", 0);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(absl::IsAlreadyExists(CheckpointWriter::Begin(files, "/c", 1, "a", 0).status()));
  EXPECT_TRUE(CheckpointWriter::Begin(files, "/c", 1, "a", 1).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(CheckpointWriter::Begin(files, "/c", 1, "", 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(CheckpointWriter::Begin(files, "/c", 1, "a/b", 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(CheckpointWriter::Begin(files, "/c", -1, "a", 0).status()));
  EXPECT_TRUE(absl::IsNotFound(CheckpointWriter::Begin(files, "/no/c", 1, "a", 0).status()));
}

TEST(Writer, StaysFailedAfterAnError) {
  MemoryFileSystem files;
  auto writer = CheckpointWriter::Begin(files, "/c", 1, "a", 0);
  const std::vector<float> data(100);
  EXPECT_TRUE(absl::IsInvalidArgument((*writer)->Add(W(90, 101), data.data())));
  EXPECT_TRUE(absl::IsInvalidArgument((*writer)->Add(W(0, 100), data.data())));
  EXPECT_TRUE(absl::IsInvalidArgument((*writer)->Finish().status()));
}

TEST(Reader, RefusesOtherNamesTypesShapesAndRanges) {
  MemoryFileSystem files;
  const auto reader = CheckpointReader::Open(files, *Save(files, "/c", 1, "a", {}));
  const TensorPiece good = MakeState(1)[0].whole;
  std::vector<char> out(1 << 10);
  ASSERT_OK((*reader)->Read(good, out.data()));
  TensorPiece bad = good;
  bad.tensor = "weights/none";
  EXPECT_TRUE(absl::IsNotFound((*reader)->Read(bad, out.data())));
  bad = good;
  bad.dtype = DType::kF32;
  EXPECT_TRUE(absl::IsInvalidArgument((*reader)->Read(bad, out.data())));
  bad = good;
  bad.global_shape = {7, 13};
  const absl::Status status = (*reader)->Read(bad, out.data());
  EXPECT_EQ(status.message(),
            "checkpoint /c/step-0000000001-a: tensor weights/embed is bf16 [13, 7], wanted bf16 "
            "[7, 13]");
  bad = good;
  bad.end += 1;
  EXPECT_TRUE(absl::IsInvalidArgument((*reader)->Read(bad, out.data())));
}

TEST(AttemptId, IsNeverTheSame) {
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) ids.insert(MakeAttemptId());
  EXPECT_EQ(ids.size(), 100u);
  EXPECT_TRUE(CheckGenerationId(0, *ids.begin()).ok());
}

TEST(GenerationName, ParsesBackAndRefusesOthers) {
  for (const int64_t step : {int64_t{0}, int64_t{10}, int64_t{12345678901}}) {
    const auto id = ParseGenerationName(GenerationName(step, "a1B"));
    ASSERT_TRUE(id.has_value());
    EXPECT_EQ(id->step, step);
    EXPECT_EQ(id->attempt, "a1B");
  }
  for (const char* name : {"", "step-", "step-1", "step-1-", "step-x-a", "step--1-a", "step-1-a-b",
                           "step-1-a.old", "LATEST", "step-99999999999999999999-a"})
    EXPECT_FALSE(ParseGenerationName(name).has_value()) << name;
}

}  // namespace
}  // namespace sluice::checkpoints
