#include "checkpoints/digest.h"

#include "checkpoints/manifest.h"
#include "checkpoints/memory_file_system.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

StateDigest DigestOf(FileSystem& files, const std::string& generation_dir) {
  auto reader = CheckpointReader::Open(files, generation_dir);
  EXPECT_TRUE(reader.ok()) << reader.status();
  auto digest = DigestOfCheckpoint(**reader);
  EXPECT_TRUE(digest.ok()) << digest.status();
  return *digest;
}

// The definition in digest.h, word by word, in 128-bit arithmetic with %.
Digest SlowDigest(const TestTensor& tensor) {
  constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;
  const size_t element_bytes = kernels::SizeOf(tensor.whole.dtype);
  const size_t word_bytes = std::min<size_t>(element_bytes, 4);
  Digest digest;
  for (size_t i = 0; i < tensor.bytes.size(); i += word_bytes) {
    uint64_t word = 0;
    std::memcpy(&word, tensor.bytes.data() + i, word_bytes);
    const auto next = [&](uint64_t d, unsigned __int128 base) {
      return static_cast<uint64_t>((d * base % kPrime + word + 1) % kPrime);
    };
    digest = {next(digest.a, 0x243f6a8885a308d3u), next(digest.b, 0xb7e151628aed2a6au)};
  }
  return digest;
}

TEST(Digest, EqualsItsDefinition) {
  for (const TestTensor& tensor : MakeState(3))
    EXPECT_EQ(DigestOfPiece(tensor.whole, tensor.bytes.data()), SlowDigest(tensor))
        << tensor.whole.tensor;
  // Long enough for several blocks, at every offset from a block's end; all ones is the largest
  // word.
  for (const int64_t n : {1, 63, 64, 65, 127, 128, 129, 1000}) {
    const TestTensor ones{WholeTensor("x", kernels::DType::kF32, {n}),
                          std::vector<char>(static_cast<size_t>(4 * n), '\xff')};
    EXPECT_EQ(DigestOfPiece(ones.whole, ones.bytes.data()), SlowDigest(ones)) << n;
  }
}

TEST(Digest, OfPiecesAddsUpInAnyOrderAndCut) {
  for (const TestTensor& tensor : MakeState(4)) {
    for (const int n : {1, 2, 7, 50}) {
      Digest sum;
      for (int i = n - 1; i >= 0; --i) {
        const TensorPiece part = Part(tensor.whole, i, n);
        sum = Sum(sum, DigestOfPiece(part, tensor.bytes.data() + static_cast<size_t>(part.begin) *
                                                                     kernels::SizeOf(part.dtype)));
      }
      EXPECT_EQ(sum, SlowDigest(tensor)) << tensor.whole.tensor << " in " << n;
    }
  }
}

TEST(Digest, OfCheckpointsDoesNotDependOnPiecesWritersOrChunks) {
  MemoryFileSystem files;
  const auto one = Save(files, "/a", 5, "a", {.num_writers = 1, .num_pieces = 1});
  const auto seven =
      Save(files, "/b", 5, "b", {.num_writers = 3, .num_pieces = 7, .chunk_bytes = 8});
  ASSERT_TRUE(one.ok() && seven.ok()) << one.status() << seven.status();
  const StateDigest a = DigestOf(files, *one), b = DigestOf(files, *seven);
  EXPECT_EQ(a.ToString(), b.ToString());
  const TestState state = MakeState(5);
  for (const TensorDigest& tensor : a.tensors) {
    const auto live = std::find_if(state.begin(), state.end(), [&](const TestTensor& t) {
      return t.whole.tensor == tensor.tensor;
    });
    ASSERT_NE(live, state.end());
    EXPECT_EQ(tensor.digest, DigestOfPiece(live->whole, live->bytes.data())) << tensor.tensor;
  }
}

TEST(Digest, ChangesWithEveryBitAndWithEverythingElse) {
  TestTensor tensor = MakeState(1)[4];
  const Digest before = DigestOfPiece(tensor.whole, tensor.bytes.data());
  for (size_t bit = 0; bit < 8 * tensor.bytes.size(); ++bit) {
    tensor.bytes[bit / 8] = static_cast<char>(tensor.bytes[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(DigestOfPiece(tensor.whole, tensor.bytes.data()) == before) << bit;
    tensor.bytes[bit / 8] = static_cast<char>(tensor.bytes[bit / 8] ^ (1 << bit % 8));
  }
  StateDigest state{.step = 1,
                    .tensors = {{"w", "f32", {2, 3}, before}, {"v", "f32", {6}, before}},
                    .state = {{"next_sample", "16"}}};
  ComputeTotal(state);
  std::vector<StateDigest> others(6, state);
  others[0].step = 2;
  others[1].tensors[0].tensor = "u";
  others[2].tensors[0].dtype = "i32";
  others[3].tensors[0].shape = {6, 1};
  others[4].tensors[0].digest.b ^= 1;
  others[5].state[0].second = "17";
  for (StateDigest& other : others) {
    ComputeTotal(other);
    EXPECT_FALSE(other.total == state.total) << other.ToString();
  }
}

// A fixed value: digests in logs and golden files must mean the same for ever.
TEST(Digest, HasNotChangedSinceFormatOne) {
  const std::vector<uint16_t> x = {1, 2, 3};
  EXPECT_EQ(DigestOfPiece(WholeTensor("x", kernels::DType::kBF16, {3}), x.data()).ToString(),
            "0b2670b898b85984192ab40c0ac9fd6a");
}

}  // namespace
}  // namespace sluice::checkpoints
