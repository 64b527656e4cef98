// Exchanges between lanes, and divergence.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tests/cuda_double/run_ptx.h"

namespace sluice::cuda_double {
namespace {

// What each lane has in %r0 after `body`, which finds its lane in %r1.
std::vector<uint32_t> OfLanes(const std::string& body) {
  PtxProgram program("mov.u32 %r1, %laneid;\n" + body +
                         "\nmul.wide.u32 %rd2, %r1, 4; ld.param.u64 %rd1, [p0];"
                         "add.s64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r0;",
                     1);
  const uint64_t out = program.Allocate(4 * kLanes);
  EXPECT_EQ(program.Run({out}), "") << body;
  std::vector<uint32_t> values;
  for (uint64_t lane = 0; lane < kLanes; ++lane) values.push_back(program.WordAt(out + 4 * lane));
  return values;
}

void ExpectLanes(const std::string& body, const std::function<uint32_t(uint32_t)>& wanted) {
  const std::vector<uint32_t> found = OfLanes(body);
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    EXPECT_EQ(found[lane], wanted(lane)) << body << " lane " << lane;
  }
}

// PTX ISA 9.7.9.6: c = clamp | (32 - width) << 8.
TEST(Shuffles, MoveValuesBetweenLanes) {
  const std::string all = ", 0xffffffff;";
  ExpectLanes("shfl.sync.bfly.b32 %r0, %r1, 5, 31" + all, [](uint32_t l) { return l ^ 5; });
  ExpectLanes("shfl.sync.up.b32 %r0, %r1, 3, 0" + all,
              [](uint32_t l) { return l < 3 ? l : l - 3; });
  ExpectLanes("shfl.sync.down.b32 %r0, %r1, 3, 31" + all,
              [](uint32_t l) { return l + 3 > 31 ? l : l + 3; });
  ExpectLanes("shfl.sync.idx.b32 %r0, %r1, 9, 31" + all, [](uint32_t) { return 9; });
  // Segments of 8 lanes: mask 24 in bits 8-12.
  ExpectLanes("shfl.sync.idx.b32 %r0, %r1, 2, 6175" + all, [](uint32_t l) { return (l & 24) + 2; });
  ExpectLanes("shfl.sync.down.b32 %r2|%p1, %r1, 3, 31, 0xffffffff; selp.u32 %r0, 1, 0, %p1;",
              [](uint32_t l) { return l + 3 <= 31 ? 1 : 0; });
}

TEST(Votes, CountAndMatch) {
  const std::string odd = "and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 1;\n";
  ExpectLanes(odd + "vote.sync.ballot.b32 %r0, %p1, 0xffffffff;",
              [](uint32_t) { return 0xaaaaaaaa; });
  ExpectLanes(odd + "vote.sync.any.pred %p2, %p1, 0xffffffff; selp.u32 %r0, 1, 0, %p2;",
              [](uint32_t) { return 1; });
  ExpectLanes(odd + "vote.sync.all.pred %p2, !%p1, 0xffffffff; selp.u32 %r0, 1, 0, %p2;",
              [](uint32_t) { return 0; });
  ExpectLanes("and.b32 %r2, %r1, 3; match.any.sync.b32 %r0, %r2, 0xffffffff;",
              [](uint32_t l) { return 0x11111111u << (l & 3); });
  ExpectLanes("redux.sync.add.s32 %r0, %r1, 0xffffffff;", [](uint32_t) { return 496; });
  ExpectLanes("redux.sync.max.u32 %r0, %r1, 0xffffffff;", [](uint32_t) { return 31; });
  const std::string signed_lane = "sub.s32 %r2, %r1, 16;", next = "add.u32 %r2, %r1, 1;";
  const std::string of_all = " %r0, %r2, 0xffffffff;";
  ExpectLanes(signed_lane + "redux.sync.min.s32" + of_all, [](uint32_t) { return 0xfffffff0; });
  ExpectLanes(signed_lane + "redux.sync.max.s32" + of_all, [](uint32_t) { return 15; });
  ExpectLanes(signed_lane + "redux.sync.min.u32" + of_all, [](uint32_t) { return 0; });
  ExpectLanes("or.b32 %r2, %r1, 32; redux.sync.and.b32" + of_all, [](uint32_t) { return 32; });
  ExpectLanes(next + "redux.sync.or.b32" + of_all, [](uint32_t) { return 63; });
  ExpectLanes(next + "redux.sync.xor.b32" + of_all, [](uint32_t) { return 32; });
}

// Each lane finds what those before it have left; 64 bits carry.
TEST(Atomics, AddAndReturnWhatWasThere) {
  PtxProgram program(
      "mov.u32 %r1, %laneid; ld.param.u64 %rd1, [p0]; ld.param.u64 %rd3, [p1];"
      "atom.global.add.u32 %r0, [%rd1], 3; atom.global.add.u64 %rd4, [%rd1+8], %rd3;"
      "red.global.add.s32 [%rd1+16], -1;"
      "mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd2, %rd1; st.global.u32 [%rd2+24], %r0;",
      2);
  const uint64_t data = program.AllocateAndFill(std::vector<uint32_t>(6 + kLanes, 5));
  ASSERT_EQ(program.Run({data, 0x80000000ull}), "");
  EXPECT_EQ(program.WordAt(data), 5u + 3 * kLanes);
  EXPECT_EQ(program.WordAt(data + 8), 5u);
  EXPECT_EQ(program.WordAt(data + 12), 5u + kLanes / 2);
  EXPECT_EQ(program.WordAt(data + 16), 5u - kLanes);
  for (uint64_t lane = 0; lane < kLanes; ++lane) {
    EXPECT_EQ(program.WordAt(data + 24 + 4 * lane), 5 + 3 * lane);
  }
  for (const char* text :
       {"atom.global.min.u32 %r0, [%rd1], %r2;", "atom.global.add.f32 %f0, [%rd1], %f2;",
        "atom.global.cas.b32 %r0, [%rd1], %r2, %r3;"}) {
    EXPECT_TRUE(Says(PtxProgram(text).error(), {"not modelled"})) << text;
  }
}

TEST(Divergence, LanesThatExitAreGone) {
  PtxProgram program(
      "mov.u32 %r1, %laneid; ld.param.u64 %rd1, [p0]; setp.gt.u32 %p1, %r1, 9; @%p1 exit;"
      "mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2; activemask.b32 %r0;"
      "st.global.u32 [%rd1], %r0;",
      1);
  const uint64_t out = program.AllocateAndFill(std::vector<uint32_t>(kLanes, 7));
  ASSERT_EQ(program.Run({out}), "");
  for (uint64_t lane = 0; lane < kLanes; ++lane) {
    EXPECT_EQ(program.WordAt(out + 4 * lane), lane < 10 ? 0x3ffu : 7u) << lane;
  }
}

TEST(Divergence, LanesMeetAgain) {
  ExpectLanes(
      "mov.u32 %r0, 0; setp.lt.u32 %p1, %r1, 10;\n@%p1 bra LOW;\nadd.u32 %r0, %r0, 100; bra MEET;\n"
      "LOW: add.u32 %r0, %r0, 1;\nMEET: activemask.b32 %r2; popc.b32 %r2, %r2; add.u32 %r0, %r0, "
      "%r2;",
      [](uint32_t l) { return 32 + (l < 10 ? 1 : 100); });
  // A loop with a trip count of its own in each lane.
  ExpectLanes(
      "mov.u32 %r0, 0;\nLOOP: add.u32 %r0, %r0, 3; add.u32 %r3, %r3, 0;\nmul.lo.u32 %r4, %r1, 3;\n"
      "setp.lt.u32 %p1, %r0, %r4;\n@%p1 bra LOOP;",
      [](uint32_t l) { return l == 0 ? 3 : 3 * l; });
}

TEST(Labels, AreScoped) {
  ExpectLanes(
      "mov.u32 %r0, 1;\n{ bra DONE; add.u32 %r0, %r0, 5; DONE: }\n{ .reg .b32 %r1; "
      "mov.u32 %r1, 4; add.u32 %r0, %r0, %r1; bra DONE; add.u32 %r0, %r0, 5; DONE: }",
      [](uint32_t) { return 5; });
}

// PTX ISA 9.7.9.8: a destination wider than a signed type is filled with its sign.
TEST(Memory, SignedLoadsFillWiderRegisters) {
  ExpectLanes(
      ".shared .align 8 .b8 s[256]; mov.u32 %r2, s; shl.b32 %r3, %r1, 2; add.u32 %r2, %r2, %r3;"
      "mov.u32 %r4, 0xfffffffe; st.shared.u32 [%r2], %r4; ld.shared.s32 %rd5, [%r2];"
      "shr.s64 %rd5, %rd5, 20; cvt.u32.u64 %r0, %rd5;",
      [](uint32_t) { return 0xffffffffu; });
}

TEST(Memory, AddressesOfParameters) {
  PtxProgram program(
      "mov.b64 %rd1, p1; ld.param.u64 %rd2, [%rd1+-8]; ld.param.u32 %r1, [%rd1];"
      "st.global.u32 [%rd2], %r1;",
      2);
  program.launch.block = {1, 1, 1};
  const uint64_t out = program.Allocate(4);
  EXPECT_EQ(program.Run({out, 77}), "");
  EXPECT_EQ(program.WordAt(out), 77u);
}

TEST(Memory, VectorsNarrowTypesAndLocal) {
  ExpectLanes(
      ".shared .align 16 .b8 s[1024]; mov.u32 %r2, s; shl.b32 %r3, %r1, 3; add.u32 %r2, %r2, %r3;"
      "mov.u32 %r4, 0x12345678; mov.u32 %r5, 0x000000fe; st.shared.v2.u32 [%r2], {%r4, %r5};"
      "ld.shared.s8 %r6, [%r2+4]; ld.shared.u16 %r7, [%r2+2]; add.u32 %r0, %r6, %r7;",
      [](uint32_t) { return 0x1234 - 2; });
  ExpectLanes(
      ".local .align 4 .b8 mine[8]; mov.u64 %rd5, mine; cvta.local.u64 %rd6, %rd5;"
      "st.u32 [%rd6+4], %r1; ld.local.u32 %r0, [%rd5+4];",
      [](uint32_t l) { return l; });
}

}  // namespace
}  // namespace sluice::cuda_double
