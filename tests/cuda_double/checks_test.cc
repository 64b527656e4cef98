// The rules that the double enforces: each is broken once, and the report must name it and the
// place.
#include <gtest/gtest.h>

#include <string>

#include "tests/cuda_double/run_ptx.h"

namespace sluice::cuda_double {
namespace {

// Thread i reads or writes word i of p0.
const std::string kWordOfThread =
    "mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; ld.param.u64 %rd1, [p0];\n"
    "add.s64 %rd1, %rd1, %rd2;\n";

TEST(MemoryChecks, AnAccessPastTheEndNamesPlaceBlockWarpAndLane) {
  PtxProgram program(kWordOfThread + ".loc 1 77 3\nst.global.u32 [%rd1], %r1;", 1,
                     ".file 1 \"some/kernel.cu\"");
  program.launch.block = {64, 1, 1};
  const uint64_t memory = program.Allocate(4 * 40);
  EXPECT_TRUE(
      Says(program.Run({memory}),
           {"test: PTX line", "`st.global.u32` (some/kernel.cu:77)", "block (0,0,0) warp 1 lane 8",
            "writes 4 bytes 4 past the end of an allocation of 160 bytes"}));
}

TEST(MemoryChecks, FreedAndForeignMemory) {
  PtxProgram program(kWordOfThread + "ld.global.u32 %r2, [%rd1];", 1);
  const uint64_t memory = program.AllocateAndFill(std::vector<uint32_t>(32));
  EXPECT_EQ(program.Run({memory}), "");
  EXPECT_TRUE(program.memory().Free(reinterpret_cast<void*>(memory)));
  EXPECT_FALSE(program.memory().Free(reinterpret_cast<void*>(memory)));
  EXPECT_TRUE(Says(program.Run({memory}), {"lane 0: reads 4 bytes", "that was freed"}));
  uint32_t on_host[32] = {};
  EXPECT_TRUE(Says(program.Run({reinterpret_cast<uint64_t>(on_host)}), {"not device memory"}));
}

TEST(MemoryChecks, UninitialisedAndMisaligned) {
  PtxProgram reads(kWordOfThread + "ld.global.u32 %r2, [%rd1];", 1);
  EXPECT_TRUE(Says(reads.Run({reads.Allocate(128)}), {"never written"}));
  PtxProgram misaligned(kWordOfThread + "st.global.u32 [%rd1+2], %r1;", 1);
  EXPECT_TRUE(Says(misaligned.Run({misaligned.Allocate(256)}), {"not aligned"}));
  PtxProgram shared(".shared .align 4 .b8 s[8]; mov.u32 %r1, s; ld.shared.u32 %r2, [%r1+4];");
  EXPECT_TRUE(Says(shared.Run(), {"shared memory at offset 4 was never written"}));
  PtxProgram outside(".shared .align 4 .b8 s[8]; mov.u32 %r1, s; st.shared.u32 [%r1+1024], %r2;");
  EXPECT_TRUE(Says(outside.Run(), {"accesses 4 bytes at offset 1024"}));
}

// Each thread of two warps writes a word and reads its neighbour's of the other warp.
std::string Exchange(const std::string& in_between) {
  return ".shared .align 4 .b8 s[256]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2;\n"
         "mov.u32 %r3, s; add.u32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1;\n" +
         in_between + "xor.b32 %r5, %r2, 128; add.u32 %r6, %r3, %r5; ld.shared.u32 %r7, [%r6];\n" +
         kWordOfThread + "st.global.u32 [%rd1], %r7;";
}

TEST(SharedRaces, AMissingBarrierIsReportedInEveryOrder) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    PtxProgram good(Exchange("bar.sync 0;\n"), 1), bad(Exchange(""), 1);
    good.launch.block = bad.launch.block = {64, 1, 1};
    good.launch.seed = bad.launch.seed = seed;
    const uint64_t out = good.Allocate(256);
    ASSERT_EQ(good.Run({out}), "");
    ASSERT_EQ(good.WordAt(out + 4 * 3), 35u);
    const std::string report = bad.Run({bad.Allocate(256)});
    // Whichever warp comes first reads what nobody wrote, or the other writes what it has read.
    ASSERT_TRUE(Says(report, {"shared memory at offset"})) << seed;
    ASSERT_TRUE(Says(report, {"with no barrier in between"}) || Says(report, {"never written"}));
  }
}

TEST(SharedRaces, WritingWhatAnotherWarpMayStillReadIsARace) {
  PtxProgram program(Exchange("bar.sync 0;\n") + "st.shared.u32 [%r4], %r7;", 1);
  program.launch.block = {64, 1, 1};
  const std::string report = program.Run({program.Allocate(256)});
  EXPECT_TRUE(Says(report, {"ld.shared.u32", "st.shared.u32", "there: PTX line"}));
  EXPECT_TRUE(Says(report, {"written here, read by warp"}) ||
              Says(report, {"read here, written by warp"}))
      << report;
}

// Each thread of one warp writes a word and reads its neighbour's: lanes may run apart.
std::string ExchangeOfLanes(const std::string& in_between) {
  return ".shared .align 4 .b8 s[128]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2;\n"
         "mov.u32 %r3, s; add.u32 %r4, %r3, %r2; st.shared.u32 [%r4], %r1;\n" +
         in_between + "xor.b32 %r5, %r2, 4; add.u32 %r6, %r3, %r5; ld.shared.u32 %r7, [%r6];\n";
}

TEST(SharedRaces, TwoLanesOfAWarp) {
  const std::string sync = "bar.warp.sync 0xffffffff;\n";
  PtxProgram good(ExchangeOfLanes(sync) + sync + "st.shared.u32 [%r4], %r7;");
  EXPECT_EQ(good.Run(), "");
  PtxProgram block(ExchangeOfLanes("bar.sync 0;\n"));
  EXPECT_EQ(block.Run(), "");
  PtxProgram reads(ExchangeOfLanes(""));
  EXPECT_TRUE(
      Says(reads.Run(), {"lane 0", "shared memory at offset 4: read here, written by lane 1 of",
                         "no warp barrier in between", "there: PTX line", "st.shared.u32"}));
  // A shuffle brings lanes together, but orders no memory.
  PtxProgram shuffle(ExchangeOfLanes("shfl.sync.bfly.b32 %r8, %r1, 1, 31, 0xffffffff;\n"));
  EXPECT_TRUE(Says(shuffle.Run(), {"read here, written by lane 1"}));
  PtxProgram writes(ExchangeOfLanes(sync) + "st.shared.u32 [%r4], %r7;");
  EXPECT_TRUE(Says(writes.Run(), {"shared memory at offset 0: written here, read by lane 1"}));
  PtxProgram one_place(".shared .align 4 .b8 s[4]; mov.u32 %r3, s; st.shared.u32 [%r3], %r1;");
  EXPECT_TRUE(
      Says(one_place.Run(), {"lane 1: shared memory at offset 0: written here and by lane 0"}));
}

// Warp 0 writes and arrives; warp 1 waits and reads.
TEST(Barriers, WhoArrivesGoesOnAndIsSeenByThoseWhoWait) {
  const auto body = [](const std::string& arrive, const std::string& after) {
    return ".shared .align 4 .b8 s[128]; mov.u32 %r1, %tid.x; and.b32 %r5, %r1, 31;\n"
           "shl.b32 %r2, %r5, 2; mov.u32 %r3, s; add.u32 %r4, %r3, %r2;\n"
           "setp.lt.u32 %p1, %r1, 32; @%p1 bra A;\n"
           "bar.sync 1, 64; ld.shared.u32 %r7, [%r4];\n" +
           std::string(kWordOfThread) +
           "st.global.u32 [%rd1], %r7; bra B;\nA: st.shared.u32 [%r4], %r1;\n" + arrive + after +
           "B:";
  };
  for (uint32_t seed = 0; seed < 10; ++seed) {
    const auto run = [&](const std::string& arrive, const std::string& after) {
      PtxProgram program(body(arrive, after), 1);
      program.launch.block = {64, 1, 1};
      program.launch.seed = seed;
      const uint64_t out = program.Allocate(256);
      const std::string report = program.Run({out});
      if (report.empty()) {
        EXPECT_EQ(program.WordAt(out + 4 * (32 + 9)), 9u);
      }
      return report;
    };
    ASSERT_EQ(run("bar.arrive 1, 64;\n", ""), "");
    // Warp 1 waits for ever, or until warp 0 exits, which makes nothing visible.
    const std::string report = run("", "");
    EXPECT_TRUE(Says(report, {"deadlock", "warp 1 waits at"}) ||
                Says(report, {"written by warp 0 with no barrier in between"}))
        << report;
    EXPECT_TRUE(Says(run("bar.arrive 2, 64; bar.arrive 2, 64;\n", ""), {"arrived", "already"}));
    EXPECT_TRUE(Says(run("bar.arrive 1, 64;\n", "st.shared.u32 [%r4], %r1;\n"),
                     {"shared memory at offset"}));
  }
}

TEST(Barriers, DeadlockNamesWhereEachWarpWaits) {
  PtxProgram program(
      "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A; bar.sync 1, 64; bra B;\n"
      "A: bar.sync 2, 64;\nB:");
  program.launch.block = {64, 1, 1};
  EXPECT_TRUE(Says(program.Run(), {"deadlock", "warp 0 waits at PTX line", "warp 1 waits at"}));
}

TEST(Barriers, NotAllLanesTogether) {
  PtxProgram program("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 7; @%p1 bar.sync 0;");
  EXPECT_TRUE(Says(program.Run(), {"bar.sync", "not all lanes of the warp"}));
  PtxProgram shuffle(
      "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 7;\n"
      "@%p1 shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffffffff;");
  EXPECT_TRUE(Says(shuffle.Run(), {"shfl.sync", "names lanes that do not execute this together"}));
}

TEST(Barriers, ExitedWarpsAreNotWaitedFor) {
  PtxProgram program("mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32;\n@%p1 ret; bar.sync 0;");
  program.launch.block = {96, 1, 1};
  EXPECT_EQ(program.Run(), "");
}

// Each thread of two warps reads the other warp's word, which that warp overwrites.
TEST(GlobalRaces, TwoWarpsOfABlock) {
  const auto body = [](const std::string& in_between) {
    return kWordOfThread +
           "xor.b32 %r3, %r1, 32; mul.wide.u32 %rd4, %r3, 4; ld.param.u64 %rd3, [p0];"
           "add.s64 %rd3, %rd3, %rd4; ld.global.u32 %r4, [%rd3];\n" +
           in_between + "st.global.u32 [%rd1], %r4;";
  };
  for (uint32_t seed = 0; seed < 10; ++seed) {
    PtxProgram good(body("bar.sync 0;"), 1), bad(body(""), 1);
    good.launch.block = bad.launch.block = {64, 1, 1};
    good.launch.seed = bad.launch.seed = seed;
    EXPECT_EQ(good.Run({good.AllocateAndFill(std::vector<uint32_t>(64))}), "");
    EXPECT_TRUE(Says(bad.Run({bad.AllocateAndFill(std::vector<uint32_t>(64))}),
                     {"of the same block with no barrier in between"}));
  }
}

// Each thread of one warp writes a word and reads its neighbour's.
TEST(GlobalRaces, TwoLanesOfAWarp) {
  const auto run = [](const std::string& in_between, const std::string& after) {
    PtxProgram program(
        kWordOfThread + "st.global.u32 [%rd1], %r1;\n" + in_between +
            "xor.b32 %r3, %r1, 1; mul.wide.u32 %rd4, %r3, 4; ld.param.u64 %rd3, [p0];"
            "add.s64 %rd3, %rd3, %rd4; ld.global.u32 %r4, [%rd3];\n" +
            after,
        1);
    return program.Run({program.Allocate(128)});
  };
  const std::string sync = "bar.warp.sync 0xffffffff;\n", write = "st.global.u32 [%rd1], %r4;\n";
  EXPECT_EQ(run(sync, sync + write), "");
  EXPECT_EQ(run("bar.sync 0;\n", ""), "");
  EXPECT_TRUE(Says(run("", ""), {"written by lane 1 of the same warp with no warp barrier"}));
  EXPECT_TRUE(Says(run("shfl.sync.bfly.b32 %r8, %r1, 1, 31, 0xffffffff;\n", ""),
                   {"written by lane 1 of the same warp"}));
  EXPECT_TRUE(Says(run(sync, write), {"read by lane 1 of the same warp"}));
}

TEST(GlobalRaces, TwoBlocksOfALaunch) {
  // All blocks write the same words.
  PtxProgram writes(kWordOfThread + "st.global.u32 [%rd1], %r1;", 1);
  writes.launch.grid = {2, 1, 1};
  EXPECT_TRUE(
      Says(writes.Run({writes.Allocate(128)}), {"written by block number 0 of the same launch"}));
  PtxProgram atomics(kWordOfThread + "red.global.add.u32 [%rd1], 2;", 1);
  atomics.launch.grid = {5, 1, 1};
  const uint64_t counters = atomics.AllocateAndFill(std::vector<uint32_t>(32, 1));
  EXPECT_EQ(atomics.Run({counters}), "");
  EXPECT_EQ(atomics.WordAt(counters + 124), 11u);
}

TEST(OrderOfOperations, StreamsMustBeOrderedByEvents) {
  PtxProgram program(kWordOfThread + "ld.global.u32 %r2, [%rd1];", 1);
  const int first = program.clocks().AddTimeline(), second = program.clocks().AddTimeline();
  const uint64_t memory = program.Allocate(128);
  const OpId write = program.clocks().Add(first, "the writer");
  ASSERT_EQ(program.memory().Touch(memory, 128, AccessKind::kWrite, {.op = write, .block = 1}), "");
  const auto event = program.clocks().Snapshot(first);
  program.launch.op = program.clocks().Add(second, "the reader");
  EXPECT_TRUE(Says(program.Run({memory}), {"written by 'the writer'", "before 'the reader'"}));
  program.clocks().Join(second, event);
  program.launch.op = program.clocks().Add(second, "the patient reader");
  EXPECT_EQ(program.Run({memory}), "");
}

}  // namespace
}  // namespace sluice::cuda_double
