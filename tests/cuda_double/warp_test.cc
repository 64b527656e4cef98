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
