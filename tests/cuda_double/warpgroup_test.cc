// wgmma in BF16 with transposed tiles, and with `a` in registers: against sums of products whose
// places in shared memory and registers are written down here once more, from the PTX ISA's tables.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda_double/run_ptx.h"

namespace sluice::cuda_double {
namespace {

constexpr int kM = 64, kN = 72, kK = 16;

int ValueOfA(int m, int k) { return (m * 7 + k * 5) % 17 - 8; }
int ValueOfB(int n, int k) { return (n * 3 + k * 11) % 13 - 6; }

uint16_t BFloat(int value) {
  const auto number = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

// A tile [16 k][64 rows] of 128-byte lines, in patterns of eight lines whose 16-byte pieces are
// exchanged by line number; the next 64 rows 2048 bytes on.
template <typename ValueOf>
std::vector<uint32_t> TransposedTile(int rows, ValueOf value_of) {
  std::vector<uint32_t> words(static_cast<size_t>((rows + 63) / 64 * 2048 / 4));
  for (int row = 0; row < rows; ++row) {
    for (int k = 0; k < kK; ++k) {
      const int piece = row % 64 / 8 ^ k % 8;
      const int byte = row / 64 * 2048 + k * 128 + piece * 16 + row % 8 * 2;
      words[static_cast<size_t>(byte / 4)] |= uint32_t{BFloat(value_of(row, k))}
                                              << (byte % 4 == 0 ? 0 : 16);
    }
  }
  return words;
}

// Four registers for each of 128 threads: rows g and g + 8 of its warp's 16 at columns 2 t, 2 t +
// 1, then the same rows eight columns on (g = lane / 4, t = lane % 4).
std::vector<uint32_t> FragmentsOfA() {
  std::vector<uint32_t> words;
  for (int thread = 0; thread < 128; ++thread) {
    const int row = thread / 32 * 16 + thread % 32 / 4, k = 2 * (thread % 4);
    for (const auto& [m, first] : {std::pair(row, k), std::pair(row + 8, k), std::pair(row, k + 8),
                                   std::pair(row + 8, k + 8)}) {
      words.push_back(uint32_t{BFloat(ValueOfA(m, first))} |
                      uint32_t{BFloat(ValueOfA(m, first + 1))} << 16);
    }
  }
  return words;
}

std::string Registers(int count) {
  std::string list;
  for (int i = 0; i < count; ++i) list += (i == 0 ? "%d" : ", %d") + std::to_string(i);
  return list;
}

// p0: a, 16 bytes a thread (a tile, or registers). p1: b, 32 bytes a thread. p2: 36 words a thread.
std::string Body(bool has_a_registers) {
  const int count = kN / 2;
  std::string text =
      ".reg .f32 %d<36>; .shared .align 1024 .b8 a[2048]; .shared .align 1024 .b8 b[4096];\n"
      "mov.u32 %r1, %tid.x; mul.wide.u32 %rd6, %r1, 16; cvt.u32.u64 %r2, %rd6;\n"
      "ld.param.u64 %rd1, [p0]; add.s64 %rd1, %rd1, %rd6;\n"
      "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1];\n"
      "ld.param.u64 %rd2, [p1]; add.s64 %rd2, %rd2, %rd6;\n"
      "mov.u32 %r3, b; add.s32 %r3, %r3, %r2;\n"
      "ld.global.v4.u32 {%r8, %r9, %r10, %r11}, [%rd2];\n"
      "st.shared.v4.u32 [%r3], {%r8, %r9, %r10, %r11};\n"
      "ld.global.v4.u32 {%r8, %r9, %r10, %r11}, [%rd2+2048];\n"
      "st.shared.v4.u32 [%r3+2048], {%r8, %r9, %r10, %r11};\n"
      "mov.u32 %r3, a; add.s32 %r3, %r3, %r2; st.shared.v4.u32 [%r3], {%r4, %r5, %r6, %r7};\n"
      "fence.proxy.async; bar.sync 0;\n"
      // Stride 1024 bytes, leading 2048, swizzle of 128 bytes.
      "mov.b64 %rd9, 0x4000004000800000; mov.u32 %r2, a; mov.u32 %r3, b;\n"
      "shr.u32 %r2, %r2, 4; cvt.u64.u32 %rd1, %r2; or.b64 %rd1, %rd1, %rd9;\n"
      "shr.u32 %r3, %r3, 4; cvt.u64.u32 %rd2, %r3; or.b64 %rd2, %rd2, %rd9;\n";
  for (int i = 0; i < count; ++i) text += "mov.b32 %d" + std::to_string(i) + ", 0f3F800000;\n";
  text +=
      "mov.b32 %r12, 1; setp.ne.s32 %p2, %r12, 0; wgmma.fence.sync.aligned;\n"
      "wgmma.mma_async.sync.aligned.m64n72k16.f32.bf16.bf16 {" +
      Registers(count) + "}, " +
      (has_a_registers ? "{%r4, %r5, %r6, %r7}, %rd2, %p2, 1, 1, 1;\n"
                       : "%rd1, %rd2, %p2, 1, 1, 1, 1;\n") +
      "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n"
      "ld.param.u64 %rd5, [p2]; mul.wide.u32 %rd6, %r1, 144; add.s64 %rd5, %rd5, %rd6;\n";
  for (int i = 0; i < count; ++i) {
    text += "st.global.f32 [%rd5+" + std::to_string(4 * i) + "], %d" + std::to_string(i) + ";\n";
  }
  return text;
}

class TransposedProduct : public ::testing::TestWithParam<bool> {};

TEST_P(TransposedProduct, IsTheSumOfProducts) {
  for (const Timing timing : {Timing::kEarly, Timing::kLate, Timing::kRandom}) {
    PtxProgram program(Body(GetParam()), 3);
    program.launch.block = {128, 1, 1};
    program.launch.timing = timing;
    const uint64_t a =
        program.AllocateAndFill(GetParam() ? FragmentsOfA() : TransposedTile(kM, ValueOfA));
    const uint64_t b = program.AllocateAndFill(TransposedTile(kN, ValueOfB));
    const uint64_t out = program.Allocate(128 * 144);
    ASSERT_EQ(program.Run({a, b, out}), "");
    for (int thread = 0; thread < 128; ++thread) {
      for (int i = 0; i < kN / 2; ++i) {
        const int m = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        const int n = i / 4 * 8 + 2 * (thread % 4) + i % 2;
        int wanted = 1;
        for (int k = 0; k < kK; ++k) wanted += ValueOfA(m, k) * ValueOfB(n, k);
        const uint32_t word = program.WordAt(out + static_cast<uint64_t>(144 * thread + 4 * i));
        float found;
        std::memcpy(&found, &word, sizeof found);
        ASSERT_EQ(found, static_cast<float>(wanted)) << m << ", " << n;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Places, TransposedProduct, ::testing::Bool(), [](const auto& info) {
  return info.param ? std::string("a_in_registers") : std::string("a_in_shared_memory");
});

}  // namespace
}  // namespace sluice::cuda_double
