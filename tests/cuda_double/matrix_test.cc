// mma.sync and ldmatrix against the fragment tables of the PTX ISA (9.7.14.5.8), written down
// element by element.
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

// m16n8k32 of codes (PTX ISA 9.7.14.5.9): element i of a lane's fragment.
Place OfA8(int lane, int i) {
  const bool is_upper = i < 4 || (i >= 8 && i < 12);
  return {is_upper ? lane / 4 : lane / 4 + 8, (lane % 4) * 4 + (i & 3) + (i < 8 ? 0 : 16)};
}
Place OfB8(int lane, int i) { return {(lane % 4) * 4 + (i & 3) + (i < 4 ? 0 : 16), lane / 4}; }

// A body for codes, and its words: `a_of` and `b_of` give the elements, c is C.
std::string CodesBody() {
  std::string body = kBody;
  const std::string shape = "m16n8k16.row.col.f32.bf16.bf16.f32";
  return body.replace(body.find(shape), shape.size(), "m16n8k32.row.col.f32.e4m3.e4m3.f32");
}
template <typename F>
std::vector<uint32_t> CodeWords(const F& a_of, const F& b_of, bool with_c) {
  std::vector<uint32_t> words;
  const auto pack = [&](int lane, int first, const F& of, Place (*place)(int, int)) {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
      word |= static_cast<uint32_t>(ToE4M3(of(place(lane, first + i)))) << (8 * i);
    }
    words.push_back(word);
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 16; i += 4) pack(lane, i, a_of, OfA8);
    for (int i = 0; i < 8; i += 4) pack(lane, i, b_of, OfB8);
    for (int i = 0; i < 4; ++i) words.push_back(Bits(with_c ? C(OfC(lane, i)) : 0.0f));
  }
  return words;
}

TEST(Mma, FragmentsOfCodesLieAsTheManualSays) {
  PtxProgram program(CodesBody(), 1);
  const uint64_t memory = program.AllocateAndFill(CodeWords(A, B, true));
  ASSERT_EQ(program.Run({memory}), "");
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Place place = OfC(lane, i);
      float wanted = C(place);
      for (int k = 0; k < 32; ++k) wanted += A({place.row, k}) * B({k, place.column});
      const uint64_t word = static_cast<uint64_t>(lane) * kWords + 6 + static_cast<uint64_t>(i);
      EXPECT_EQ(program.WordAt(memory + 4 * word), Bits(wanted)) << "lane " << lane << " c" << i;
    }
  }
}

float Large(Place p) { return p.column == 0 ? 256.0f : 0.125f; }
float Small(Place p) { return p.row == 0 ? 256.0f : 0x1p-8f; }

// 2^16 and 31 times 2^-11, which an H100 cuts 25 bits below 2^16.
TEST(Mma, CodesLoseWhatIsFarBelow) {
  for (const Accumulator how : {Accumulator::kExact, Accumulator::kH100}) {
    PtxProgram program(CodesBody(), 1);
    program.launch.accumulator = how;
    const uint64_t memory = program.AllocateAndFill(CodeWords(Large, Small, false));
    ASSERT_EQ(program.Run({memory}), "");
    const float wanted = how == Accumulator::kExact ? 65536.0f + 2 * 0x1p-7f : 65536.0f;
    EXPECT_EQ(program.WordAt(memory + 4 * 6), Bits(wanted));
  }
}

// Lane l stores 32 bytes at 32 l of shared memory, words l and so on; then four matrices are read
// whose row r is at 32 r, from byte 16 (m % 2) on, 8 (m / 2) rows down. Words of a row: 2 elements.
std::string LoadMatricesBody(const std::string& form, const std::string& address) {
  std::string body =
      ".shared .align 16 .b8 s[1024]; mov.u32 %r1, %laneid; mov.u32 %r2, s; shl.b32 %r3, %r1, 5;"
      "add.u32 %r3, %r3, %r2; mul.lo.u32 %r4, %r1, 0x00100010; ld.param.u64 %rd1, [p0];";
  for (int word = 0; word < 8; ++word) {  // elements 16 l + 2 word and the next
    body += "add.u32 %r5, %r4, " + std::to_string(((2 * word + 1) << 16) + 2 * word) +
            "; st.shared.u32 [%r3+" + std::to_string(4 * word) + "], %r5;";
  }
  body +=
      "bar.warp.sync 0xffffffff; and.b32 %r6, %r1, 7; shr.b32 %r7, %r1, 3; and.b32 %r8, %r7, 1;"
      "shr.b32 %r9, %r7, 1; shl.b32 %r9, %r9, 3; add.u32 %r6, %r6, %r9; shl.b32 %r6, %r6, 5;"
      "shl.b32 %r8, %r8, 4; add.u32 %r6, %r6, %r8; add.u32 %r6, %r6, %r2;\n";
  body += form + " {%r10, %r11, %r12, %r13}, [" + address + "];\n";
  body += "mul.wide.u32 %rd2, %r1, 16; add.s64 %rd1, %rd1, %rd2;";
  for (int i = 0; i < 4; ++i) {
    body += "st.global.u32 [%rd1+" + std::to_string(4 * i) + "], %r" + std::to_string(10 + i) + ";";
  }
  return body;
}

TEST(LoadMatrix, ElementsLieAsTheManualSays) {
  for (const bool is_transposed : {false, true}) {
    const std::string form = "ldmatrix.sync.aligned.m8n8.x4" +
                             std::string(is_transposed ? ".trans" : "") + ".shared.b16";
    PtxProgram program(LoadMatricesBody(form, "%r6"), 1);
    ASSERT_EQ(program.error(), "");
    const uint64_t memory = program.Allocate(16 * kLanes);
    ASSERT_EQ(program.Run({memory}), "");
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int m = 0; m < 4; ++m) {
        const auto element = [&](int row, int column) {
          return static_cast<uint32_t>(16 * (row + m / 2 * 8) + m % 2 * 8 + column);
        };
        const int g = lane / 4, t = lane % 4 * 2;
        const uint32_t wanted = is_transposed ? element(t + 1, g) << 16 | element(t, g)
                                              : element(g, t + 1) << 16 | element(g, t);
        EXPECT_EQ(program.WordAt(memory + 16 * static_cast<uint64_t>(lane) +
                                 4 * static_cast<uint64_t>(m)),
                  wanted)
            << "lane " << lane << " matrix " << m;
      }
    }
  }
}

TEST(LoadMatrix, RowsAreAlignedAndInside) {
  const std::string form = "ldmatrix.sync.aligned.m8n8.x4.shared.b16";
  PtxProgram misaligned(LoadMatricesBody(form, "%r6+8"), 1);
  EXPECT_TRUE(Says(misaligned.Run({misaligned.Allocate(512)}), {"ldmatrix", "not aligned"}));
  PtxProgram outside(LoadMatricesBody(form, "%r6+1024"), 1);
  EXPECT_TRUE(Says(outside.Run({outside.Allocate(512)}), {"ldmatrix", "at offset 1024"}));
  const PtxProgram other("ldmatrix.sync.aligned.m8n16.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r5];");
  EXPECT_NE(other.error().find("not modelled"), std::string::npos);
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
