// Hopper's asynchronous instructions: what they compute, and each rule broken once.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda_double/exec/tensor_map.h"
#include "tests/cuda_double/exec/tensor_sum.h"
#include "tests/cuda_double/run_ptx.h"

namespace sluice::cuda_double {
namespace {

constexpr int kMapWords = 16;  // 64-bit parameters that hold a tensor map

// Thread 0 copies the box at (x, y), 8 rows of 128 bytes, and all of two warps read it: thread t
// stores word 64 j + t to p16. Pieces that tests leave out or change.
struct CopyPieces {
  std::string fence = "fence.proxy.async;\n", sync = "bar.sync 0;\n", bytes = "1024";
  std::string wait =
      "again: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra again;\n";
  std::string before = "", after = "";
  int x = 0, y = 0, z = -1;  // z below 0: a copy by two dimensions
  bool has_halves = false;   // the tensor is [rows, 2, half a row], else [rows, row]
};
std::string CopyBody(const CopyPieces& p) {
  return ".shared .align 1024 .b8 tile[1024]; .shared .align 8 .b8 bar[8];\n"
         "mov.u32 %r1, %tid.x; mov.u32 %r2, tile; mov.u32 %r3, bar; setp.ne.s32 %p1, %r1, 0;\n"
         "@%p1 bra ready; mbarrier.init.shared::cta.b64 [%r3], 1;\n" +
         p.fence + "ready:\n" + p.sync + p.before + "@%p1 bra copied;\n" +
         "mov.b64 %rd1, p0; cvta.param.u64 %rd2, %rd1;\n"
         "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], " +
         p.bytes + ";\n" + "mov.b32 %r4, " + std::to_string(p.x) + "; mov.b32 %r5, " +
         std::to_string(p.y) + "; mov.b32 %r9, " + std::to_string(p.z) + ";\n" +
         "cp.async.bulk.tensor." + (p.z < 0 ? "2d" : "3d") +
         ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%rd2, " +
         (p.z < 0 ? "{%r4, %r5}" : "{%r4, %r5, %r9}") + "], [%r3];\ncopied:\n" + p.wait + p.after +
         "shl.b32 %r6, %r1, 2; add.s32 %r6, %r6, %r2; ld.param.u64 %rd3, [p16];\n"
         "mul.wide.u32 %rd4, %r1, 4; add.s64 %rd3, %rd3, %rd4; mov.b32 %r7, 0;\n"
         "next: ld.shared.u32 %r8, [%r6]; st.global.u32 [%rd3], %r8;\n"
         "add.s32 %r6, %r6, 256; add.s64 %rd3, %rd3, 256; add.s32 %r7, %r7, 1;\n"
         "setp.lt.s32 %p3, %r7, 4; @%p3 bra next;";
}

class TensorCopy : public ::testing::Test {
 protected:
  static constexpr uint32_t kRows = 20, kColumns = 160;  // bytes of a row

  // The report; `found`: the tile as shared memory held it.
  std::string Run(const CopyPieces& pieces, Swizzle swizzle = Swizzle::k128,
                  Timing timing = Timing::kRandom, uint32_t seed = 1) {
    PtxProgram program(CopyBody(pieces), kMapWords + 1);
    program.launch.block = {64, 1, 1};
    program.launch.timing = timing;
    program.launch.seed = seed;
    std::vector<uint32_t> words(kRows * kColumns / 4);
    for (uint32_t i = 0; i < words.size(); ++i) words[i] = i + 1;
    TensorMap map;
    map.magic = TensorMap::kMagic;
    map.address = program.AllocateAndFill(words);
    map.extents = {kColumns, kRows, 1};
    map.strides = {kColumns, kColumns};
    map.box = {128, 8, 1};
    if (pieces.has_halves) {
      map.rank = 3;
      map.extents = {kColumns / 2, 2, kRows};
      map.strides = {kColumns / 2, kColumns};
      map.box = {128, 1, 8};
    }
    map.element_bytes = 1;
    map.swizzle = swizzle;
    std::vector<uint64_t> parameters(kMapWords + 1);
    std::memcpy(parameters.data(), &map, sizeof map);
    const uint64_t out = parameters.back() = program.Allocate(1024);
    const std::string report = program.Run(parameters);
    for (uint32_t i = 0; report.empty() && i < 256; ++i) found_[i] = program.WordAt(out + 4 * i);
    return report;
  }

  // The word of the tensor at a place; 0 outside.
  static uint32_t WordOf(int byte, int row) {
    const bool is_inside =
        byte >= 0 && byte < static_cast<int>(kColumns) && row >= 0 && row < static_cast<int>(kRows);
    return is_inside ? static_cast<uint32_t>(row * static_cast<int>(kColumns) + byte) / 4 + 1 : 0;
  }

  std::array<uint32_t, 256> found_ = {};
};

// PTX ISA 9.0, "Swizzling Modes": with 128 bytes, unit c of row r lies in unit c xor (r mod 8).
TEST_F(TensorCopy, ABoxArrivesSwizzledAndZerosOutside) {
  for (const Timing timing : {Timing::kEarly, Timing::kLate, Timing::kRandom}) {
    for (const auto& [x, y] : {std::pair(0, 0), {16, 3}, {48, 15}, {-16, -2}, {160, 0}}) {
      CopyPieces pieces;
      pieces.x = x;
      pieces.y = y;
      ASSERT_EQ(Run(pieces, Swizzle::k128, timing), "") << x << " " << y;
      for (int row = 0; row < 8; ++row) {
        for (int word = 0; word < 32; ++word) {
          const int unit = word / 4 ^ row;
          ASSERT_EQ(found_[static_cast<size_t>(row * 32 + unit * 4 + word % 4)],
                    WordOf(x + 4 * word, y + row))
              << "x " << x << " y " << y << " row " << row << " word " << word;
        }
      }
      ASSERT_EQ(Run(pieces, Swizzle::kNone, timing), "");
      for (int i = 0; i < 256; ++i) {
        ASSERT_EQ(found_[static_cast<size_t>(i)], WordOf(x + i % 32 * 4, y + i / 32));
      }
    }
  }
}

TEST_F(TensorCopy, AMapMayBePrefetchedAndNothingElse) {
  CopyPieces pieces;
  pieces.before = "mov.b64 %rd5, p0; cvta.param.u64 %rd6, %rd5; prefetch.tensormap [%rd6];\n";
  EXPECT_EQ(Run(pieces), "");
  pieces.before = "ld.param.u64 %rd6, [p16]; prefetch.tensormap [%rd6];\n";
  EXPECT_TRUE(Says(Run(pieces), {"a tensor map must be a __grid_constant__ parameter"}));
}

// Registers move between warpgroups: nothing to see here, but all lanes of a warp must do it.
TEST_F(TensorCopy, RegistersAreGivenAwayByWholeWarps) {
  CopyPieces pieces;
  pieces.before = "setmaxnreg.dec.sync.aligned.u32 40; setmaxnreg.inc.sync.aligned.u32 232;\n";
  EXPECT_EQ(Run(pieces), "");
  pieces.before = "@%p1 bra kept; setmaxnreg.dec.sync.aligned.u32 40;\nkept:\n";
  EXPECT_TRUE(Says(Run(pieces), {"not all lanes of the warp execute this together"}));
}

// The box ends with its half of the row, and what follows is zeros, not the next half.
TEST_F(TensorCopy, ABoxOfThreeDimensionsReadsNothingOfTheNextPart) {
  constexpr int kHalf = kColumns / 2;
  for (const auto& [x, half, row] : {std::array{0, 0, 3}, {0, 1, 15}, {16, 0, 0}, {-16, 1, 2}}) {
    CopyPieces pieces;
    pieces.x = x, pieces.y = half, pieces.z = row;
    pieces.has_halves = true;
    ASSERT_EQ(Run(pieces, Swizzle::kNone), "") << x << " " << half << " " << row;
    for (int i = 0; i < 256; ++i) {
      const int byte = x + i % 32 * 4;
      const bool is_inside = byte >= 0 && byte < kHalf;
      ASSERT_EQ(found_[static_cast<size_t>(i)],
                is_inside ? WordOf(half * kHalf + byte, row + i / 32) : 0);
    }
    pieces.z = -1;
    EXPECT_TRUE(Says(Run(pieces), {"another number of dimensions than its map's"}));
  }
}

TEST_F(TensorCopy, BrokenRulesAreNamed) {
  for (uint32_t seed = 1; seed < 10; ++seed) {
    const auto broken = [&](auto change) {
      CopyPieces pieces;
      change(pieces);
      return Run(pieces, Swizzle::k128, Timing::kRandom, seed);
    };
    EXPECT_TRUE(Says(broken([](CopyPieces& p) { p.fence = ""; }), {"no proxy fence in between"}));
    EXPECT_TRUE(Says(broken([](CopyPieces& p) { p.x = 4; }), {"no multiple of 16 bytes"}));
    EXPECT_TRUE(Says(broken([](CopyPieces& p) { p.bytes = "1040"; }),
                     {"deadlock", "warp 0 waits at", "warp 1 waits at", "mbarrier.try_wait"}));
    EXPECT_TRUE(Says(broken([](CopyPieces& p) { p.bytes = "1008"; }), {"deadlock"}));
    EXPECT_TRUE(Says(broken([](CopyPieces& p) { p.wait = ""; }), {"shared memory at offset"}));
    EXPECT_TRUE(Says(broken([](CopyPieces& p) {
                       p.after = p.wait;
                       p.wait = "";
                       p.before = "st.shared.u32 [%r2], %r1;\n";
                     }),
                     {"written"}));
    // Only whoever waits has seen the copy.
    EXPECT_TRUE(Says(broken([](CopyPieces& p) { p.wait = "@%p1 bra go;\n" + p.wait + "go:\n"; }),
                     {"shared memory at offset"}));
    EXPECT_TRUE(
        Says(broken([](CopyPieces& p) { p.bytes += "; mbarrier.arrive.shared::cta.b64 _, [%r3]"; }),
             {"arrives more often than the mbarrier's 1 times"}));
  }
  CopyPieces unsynced;
  unsynced.sync = "";
  EXPECT_NE(Run(unsynced), "");
}

// Four warps fill a tile of 64 rows and one of 8 with ones, multiply, and store to p0 what thread t
// holds: 4 words.
struct ProductPieces {
  std::string fence = "fence.proxy.async;\n", sync = "bar.sync 0;\n";
  std::string wait = "wgmma.wait_group.sync.aligned 0;\n", before_wait = "", fill_b = "0x38383838";
  std::string adds = "0", k = "m64n8k32", types = "e4m3.e4m3", flags = "1, 1", start = "0";
};
std::string ProductBody(const ProductPieces& p) {
  return ".shared .align 1024 .b8 a[8192]; .shared .align 1024 .b8 b[1024];\n"
         "mov.u32 %r1, %tid.x; mov.u32 %r2, a; mov.u32 %r3, b; shl.b32 %r4, %r1, 2;\n"
         "add.s32 %r5, %r2, %r4; mov.b32 %r6, 0; mov.b32 %r7, 0x38383838; mov.b32 %r15, " +
         p.fill_b + ";\n" +
         "fill: st.shared.u32 [%r5], %r7; add.s32 %r5, %r5, 512; add.s32 %r6, %r6, 1;\n"
         "setp.lt.s32 %p1, %r6, 16; @%p1 bra fill;\n"
         "add.s32 %r5, %r3, %r4; st.shared.u32 [%r5], %r15; st.shared.u32 [%r5+512], %r15;\n" +
         p.fence + p.sync + "mov.b64 %rd9, 0x4000004000010000; add.s32 %r2, %r2, " + p.start +
         ";\n" +
         "shr.u32 %r8, %r2, 4; cvt.u64.u32 %rd1, %r8; or.b64 %rd1, %rd1, %rd9;\n"
         "shr.u32 %r9, %r3, 4; cvt.u64.u32 %rd2, %r9; or.b64 %rd2, %rd2, %rd9;\n"
         "mov.b32 %f1, 0f3F800000; mov.b32 %f2, %f1; mov.b32 %f3, %f1; mov.b32 %f4, %f1;\n"
         "mov.b32 %r10, " +
         p.adds +
         "; setp.ne.s32 %p2, %r10, 0; wgmma.fence.sync.aligned;\n"
         "wgmma.mma_async.sync.aligned." +
         p.k + ".f32." + p.types + " {%f1, %f2, %f3, %f4}, %rd1, %rd2, %p2, " + p.flags + ";\n" +
         "wgmma.commit_group.sync.aligned;\n" + p.before_wait + p.wait +
         "ld.param.u64 %rd5, [p0]; mul.wide.u32 %rd6, %r1, 16; add.s64 %rd5, %rd5, %rd6;\n"
         "st.global.v4.f32 [%rd5], {%f1, %f2, %f3, %f4};";
}
std::string RunProduct(const ProductPieces& pieces, float& first, Timing timing = Timing::kRandom) {
  PtxProgram program(ProductBody(pieces), 1);
  program.launch.block = {128, 1, 1};
  program.launch.timing = timing;
  const uint64_t out = program.Allocate(2048);
  const std::string report = program.Run({out});
  if (!report.empty()) return report;
  for (uint64_t i = 0; i < 512; ++i) {
    const uint32_t word = program.WordAt(out + 4 * i), want = program.WordAt(out);
    EXPECT_EQ(word, want) << i;
    std::memcpy(&first, &word, sizeof first);
  }
  return report;
}

TEST(WarpgroupProduct, SumsOnesInFp8AndBF16AndAddsIfAsked) {
  for (const Timing timing : {Timing::kEarly, Timing::kLate, Timing::kRandom}) {
    float sum = 0;
    ASSERT_EQ(RunProduct({}, sum, timing), "");
    EXPECT_EQ(sum, 32);
    ProductPieces adds;
    adds.adds = "1";
    ASSERT_EQ(RunProduct(adds, sum, timing), "");
    EXPECT_EQ(sum, 33);
    ProductPieces bf16;
    bf16.k = "m64n8k16";
    bf16.types = "bf16.bf16";
    bf16.flags = "1, 1, 0, 0";
    bf16.fill_b = "0x3f803f80";  // 1.0; a holds 0x3838 = 184 * 2^-22
    ASSERT_EQ(RunProduct(bf16, sum, timing), "");
    EXPECT_EQ(sum, 16 * 184.0f / 4194304);
  }
}

TEST(WarpgroupProduct, BrokenRulesAreNamed) {
  const auto broken = [](auto change) {
    ProductPieces pieces;
    change(pieces);
    float sum = 0;
    return RunProduct(pieces, sum);
  };
  EXPECT_TRUE(Says(broken([](ProductPieces& p) { p.fence = ""; }),
                   {"read here, written", "with no barrier"}));
  EXPECT_TRUE(Says(broken([](ProductPieces& p) { p.sync = ""; }), {"shared memory at offset"}));
  EXPECT_TRUE(
      Says(broken([](ProductPieces& p) { p.wait = ""; }), {"ends before its matrix products"}));
  // A tile is overwritten while the tensor core may still read it.
  EXPECT_TRUE(Says(
      broken([](ProductPieces& p) { p.before_wait = "bar.sync 0; st.shared.u32 [%r5], %r7;\n"; }),
      {"read by the tensor core for warp"}));
  EXPECT_TRUE(Says(broken([](ProductPieces& p) { p.start = "128"; }),
                   {"does not start where its pattern does"}));
  EXPECT_TRUE(Says(broken([](ProductPieces& p) { p.flags = "-1, 1"; }), {"not modelled"}));
  EXPECT_TRUE(Says(broken([](ProductPieces& p) { p.k = "m64n16k32"; }), {"not modelled"}));
}

}  // namespace
}  // namespace sluice::cuda_double
