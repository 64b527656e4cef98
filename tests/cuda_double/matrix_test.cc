// mma.sync against the fragment tables of the PTX ISA (9.7.14.5.8), written down element by
// element.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/cuda_double/exec/formats.h"
#include "tests/cuda_double/run_ptx.h"

namespace sluice::cuda_double {
namespace {

struct Place {
  int row, column;
};

// Element i of a lane's fragment.
Place OfA(int lane, int i) {
  const int group = lane / 4, in_group = lane % 4;
  const bool is_upper = i < 2 || (i >= 4 && i < 6);
  return {is_upper ? group : group + 8, in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Place OfB(int lane, int i) { return {(lane % 4) * 2 + (i & 1) + (i < 2 ? 0 : 8), lane / 4}; }
Place OfC(int lane, int i) { return {i < 2 ? lane / 4 : lane / 4 + 8, (lane % 4) * 2 + (i & 1)}; }

// Small integers, exact in BF16 and in any sum.
float A(Place p) { return static_cast<float>((p.row * 7 + p.column * 3) % 11 - 5); }
float B(Place p) { return static_cast<float>((p.row * 5 + p.column * 2) % 13 - 6); }
float C(Place p) { return static_cast<float>(p.row - 2 * p.column); }

uint32_t Pair(float low, float high) {
  return static_cast<uint32_t>(ToBFloat16(high)) << 16 | ToBFloat16(low);
}
uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// 10 words a lane: a0..a3, b0, b1, c0..c3. The result replaces c.
constexpr uint64_t kWords = 10;
const char kBody[] =
    "mov.u32 %r1, %laneid; mul.wide.u32 %rd2, %r1, 40; ld.param.u64 %rd1, [p0];"
    "add.s64 %rd1, %rd1, %rd2;"
    "ld.global.u32 %r2, [%rd1]; ld.global.u32 %r3, [%rd1+4]; ld.global.u32 %r4, [%rd1+8];"
    "ld.global.u32 %r5, [%rd1+12]; ld.global.u32 %r6, [%rd1+16]; ld.global.u32 %r7, [%rd1+20];"
    "ld.global.f32 %f1, [%rd1+24]; ld.global.f32 %f2, [%rd1+28]; ld.global.f32 %f3, [%rd1+32];"
    "ld.global.f32 %f4, [%rd1+36];\n"
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f5, %f6, %f7, %f8}, "
    "{%r2, %r3, %r4, %r5}, {%r6, %r7}, {%f1, %f2, %f3, %f4};\n"
    "st.global.f32 [%rd1+24], %f5; st.global.f32 [%rd1+28], %f6; st.global.f32 [%rd1+32], %f7;"
    "st.global.f32 [%rd1+36], %f8;";

TEST(Mma, FragmentsLieAsTheManualSays) {
  std::vector<uint32_t> words;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 8; i += 2) words.push_back(Pair(A(OfA(lane, i)), A(OfA(lane, i + 1))));
    for (int i = 0; i < 4; i += 2) words.push_back(Pair(B(OfB(lane, i)), B(OfB(lane, i + 1))));
    for (int i = 0; i < 4; ++i) words.push_back(Bits(C(OfC(lane, i))));
  }
  PtxProgram program(kBody, 1);
  const uint64_t memory = program.AllocateAndFill(words);
  ASSERT_EQ(program.Run({memory}), "");
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place place = OfC(lane, i);
      float wanted = C(place);
      for (int k = 0; k < 16; ++k) wanted += A({place.row, k}) * B({k, place.column});
      const uint64_t word = static_cast<uint64_t>(lane) * kWords + 6 + static_cast<uint64_t>(i);
      EXPECT_EQ(program.WordAt(memory + 4 * word), Bits(wanted)) << "lane " << lane << " c" << i;
    }
  }
}

TEST(Mma, NeedsTheWholeWarp) {
  PtxProgram program(
      std::string("mov.u32 %r9, %laneid; setp.eq.u32 %p1, %r9, 3;\n@%p1 ret;\n") + kBody, 1);
  const uint64_t memory = program.AllocateAndFill(std::vector<uint32_t>(kWords * kLanes));
  EXPECT_NE(program.Run({memory}).find("not all 32 lanes"), std::string::npos);
}

TEST(Mma, OtherShapesAreRefused) {
  const PtxProgram program(
      "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f5, %f6, %f7, %f8}, {%r2, %r3}, {%r6}, "
      "{%f1, %f2, %f3, %f4};");
  EXPECT_NE(program.error().find("not modelled"), std::string::npos);
}

}  // namespace
}  // namespace sluice::cuda_double
