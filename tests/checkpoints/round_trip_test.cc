#include "checkpoints/manifest.h"
#include "checkpoints/memory_file_system.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

struct Cuts {
  int num_writers, save_pieces, load_pieces;
  int64_t chunk_bytes;
};

class RoundTrip : public testing::TestWithParam<Cuts> {};

TEST_P(RoundTrip, GivesBackEveryByteWhateverTheCuts) {
  const Cuts& cuts = GetParam();
  MemoryFileSystem files;
  const auto saved =
      Save(files, "/checkpoints", 10, "a", {cuts.num_writers, cuts.save_pieces, cuts.chunk_bytes});
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(*saved, "/checkpoints/step-0000000010-a");
  ASSERT_OK(Verify(files, *saved));
  EXPECT_TRUE(SameBytes(Load(files, *saved, cuts.load_pieces), MakeState(10)));
}

INSTANTIATE_TEST_SUITE_P(Cuts, RoundTrip,
                         testing::Values(Cuts{1, 1, 1, 8}, Cuts{1, 1, 7, 64}, Cuts{1, 7, 1, 64},
                                         Cuts{2, 3, 5, 64}, Cuts{5, 2, 3, 16}, Cuts{3, 40, 1, 8},
                                         Cuts{1, 1, 40, 1 << 20}, Cuts{7, 13, 11, 1 << 20}));

// More writers than files a reader keeps open.
TEST(RoundTripOfManyWriters, GivesBackEveryByte) {
  MemoryFileSystem files;
  const auto saved = Save(files, "/checkpoints", 1, "a", {.num_writers = 131, .num_pieces = 131});
  ASSERT_TRUE(saved.ok()) << saved.status();
  ASSERT_OK(Verify(files, *saved));
  EXPECT_TRUE(SameBytes(Load(files, *saved, 1), MakeState(1)));
}

TEST(RoundTripOfMetadata, KeepsStepAndMetadata) {
  MemoryFileSystem files;
  const auto saved = Save(files, "/checkpoints", 10, "a", {});
  ASSERT_TRUE(saved.ok()) << saved.status();
  const auto reader = CheckpointReader::Open(files, *saved);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->step(), 10);
  EXPECT_EQ((*reader)->metadata().SerializeAsString(), MakeMetadata(10).SerializeAsString());
  EXPECT_EQ((*reader)->tensors().size(), static_cast<int>(MakeState(10).size()));
}

}  // namespace
}  // namespace sluice::checkpoints
