#include "checkpoints/inspect.h"

#include <cmath>
#include <limits>

#include "checkpoints/memory_file_system.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

// Saves one f32 tensor "w" and what else is asked for; returns a reader.
std::unique_ptr<CheckpointReader> SaveFloats(FileSystem& files, const std::string& dir,
                                             const std::vector<float>& w,
                                             const std::string& extra_tensor,
                                             const std::string& sample) {
  auto writer = CheckpointWriter::Begin(files, dir, 1, "a", 0, {.chunk_bytes = 16});
  EXPECT_TRUE(writer.ok()) << writer.status();
  const TensorPiece whole =
      WholeTensor("w", kernels::DType::kF32, {static_cast<int64_t>(w.size())});
  EXPECT_TRUE((*writer)->Add(whole, w.data()).ok());
  if (!extra_tensor.empty()) {
    EXPECT_TRUE((*writer)->Add(WholeTensor(extra_tensor, kernels::DType::kF32, {}), w.data()).ok());
  }
  const std::vector<ShardReceipt> receipts = {*(*writer)->Finish()};
  RunMetadata metadata;
  (*metadata.mutable_state())["next_sample"] = sample;
  const auto saved = Commit(files, dir, 1, "a", receipts, metadata);
  EXPECT_TRUE(saved.ok()) << saved.status();
  return *CheckpointReader::Open(files, *saved);
}

TEST(Diff, OfEqualStatesInDifferentPiecesIsEmpty) {
  MemoryFileSystem files;
  const auto a = CheckpointReader::Open(files, *Save(files, "/a", 5, "x", {.num_pieces = 1}));
  const auto b = CheckpointReader::Open(files, *Save(files, "/b", 5, "y", {.num_pieces = 6}));
  const auto difference = Diff(**a, **b);
  ASSERT_TRUE(difference.ok()) << difference.status();
  EXPECT_TRUE(difference->is_equal()) << difference->ToString();
  EXPECT_EQ(difference->num_equal_tensors, static_cast<int64_t>(MakeState(5).size()));
}

TEST(Diff, NamesTheFirstElementTheLargestDifferenceAndWhatOnlyOneHas) {
  MemoryFileSystem files;
  std::vector<float> w(1000, 1.0f);
  const auto a = SaveFloats(files, "/a", w, "x", "16");
  w[7] = 1.5f;
  w[999] = -3.0f;
  const auto b = SaveFloats(files, "/b", w, "y", "32");
  const auto difference = Diff(*a, *b);
  ASSERT_TRUE(difference.ok()) << difference.status();
  ASSERT_EQ(difference->tensors.size(), 3u);
  const TensorDifference& values = difference->tensors[0];
  EXPECT_EQ(values.tensor, "w");
  EXPECT_EQ(values.first_element, 7);
  EXPECT_EQ(values.num_different, 2);
  EXPECT_EQ(values.max_difference, 4.0);
  EXPECT_EQ(difference->ToString(),
            "state next_sample differs\n"
            "w: 2 elements differ, the first is element 7 (1 against 1.5), largest difference 4\n"
            "x: only in A\n"
            "y: only in B\n"
            "0 tensors are equal, 3 differ\n");
}

TEST(Diff, TellsShapesAndSignsOfZeroAndNanApart) {
  MemoryFileSystem files;
  const auto a = SaveFloats(files, "/a", {0.0f, 1.0f}, "", "16");
  const auto b = SaveFloats(files, "/b", {-0.0f, 1.0f}, "", "16");
  const auto c = SaveFloats(files, "/c", {0.0f, 1.0f, 2.0f}, "", "16");
  const auto d = SaveFloats(files, "/d", {std::numeric_limits<float>::quiet_NaN(), 9.0f}, "", "16");
  EXPECT_EQ(Diff(*a, *b)->tensors.at(0).num_different, 1);
  EXPECT_EQ(Diff(*a, *b)->tensors.at(0).max_difference, 0.0);
  EXPECT_EQ(Diff(*a, *c)->tensors.at(0).b, "f32 [3]");
  EXPECT_TRUE(std::isnan(Diff(*a, *d)->tensors.at(0).max_difference));
  EXPECT_TRUE(Diff(*d, *d)->is_equal());
}

TEST(ResolveCheckpoint, TakesAGenerationAFolderOfThemOrARun) {
  MemoryFileSystem files;
  ASSERT_OK(files.MakeDirectory("/run"));
  const std::string saved = *Save(files, "/run/checkpoints", 5, "x", {});
  for (const std::string& path : {saved, std::string("/run/checkpoints"), std::string("/run")}) {
    const auto resolved = ResolveCheckpoint(files, path, NoLog);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    EXPECT_EQ(*resolved, saved);
  }
  EXPECT_EQ(ResolveCheckpoint(files, "/nowhere", NoLog).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(InspectText, ListsGenerationsAndContents) {
  MemoryFileSystem files;
  const std::string saved = *Save(files, "/c", 5, "x", {});
  ASSERT_OK(files.MakeDirectory("/c/step-0000000007-dead"));
  const auto generations = ListGenerations(files, "/c");
  EXPECT_EQ(GenerationsText(*generations),
            "      step  created                  checkpoint\n"
            "         7  -                        /c/step-0000000007-dead  its save was never "
            "finished\n"
            "         5  2023-11-14 22:13:20 UTC  /c/step-0000000005-x\n");
  const auto reader = CheckpointReader::Open(files, saved);
  const std::string text = ContentsText(**reader);
  EXPECT_NE(text.find("step 5, created 2023-11-14 22:13:20 UTC, format version 1, attempt x\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("bf16  [13, 7]                         182 bytes     1 pieces  "
                      "weights/embed\n"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace sluice::checkpoints
