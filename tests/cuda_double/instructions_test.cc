// Each instruction against values worked out from its definition in the PTX ISA manual 9.0 (section
// 9.7), not from the executor.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "tests/cuda_double/run_ptx.h"

namespace sluice::cuda_double {
namespace {

uint64_t F(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
uint64_t D(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
constexpr uint64_t kNaN = 0x7fc00000, kInf = 0x7f800000;

// An instruction that reads registers 1, 2 and 3 of any class, which hold a, b and c, and writes
// register 0 of some class.
struct Case {
  const char* text;
  uint64_t a, b, c, wanted;
};

std::string ResultRegister(const std::string& text) {
  const size_t second = text.find('|');  // of p|q: q
  const size_t begin = text.find('%', second == text.npos ? 0 : second);
  return text.substr(begin, text.find('0', begin) + 1 - begin);
}

// To %rd0, from a register of another class.
std::string Widen(const std::string& from) {
  if (from == "%r0") return "cvt.u64.u32 %rd0, %r0;";
  if (from == "%h0") return "cvt.u64.u16 %rd0, %h0;";
  if (from == "%f0") return "mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;";
  if (from == "%fd0") return "mov.b64 %rd0, %fd0;";
  if (from == "%p0") return "selp.u64 %rd0, 1, 0, %p0;";
  return "";
}

uint64_t Evaluate(const Case& test, std::string& error) {
  std::string body;
  for (int i = 1; i <= 3; ++i) {
    const std::string n = std::to_string(i);
    body += "ld.param.u64 %rd" + n + ", [p" + std::to_string(i - 1) + "];";
    body += "cvt.u32.u64 %r" + n + ", %rd" + n + "; cvt.u16.u64 %h" + n + ", %rd" + n + ";";
    body += "mov.b32 %f" + n + ", %r" + n + "; mov.b64 %fd" + n + ", %rd" + n + ";";
    body += "setp.ne.u64 %p" + n + ", %rd" + n + ", 0;\n";
  }
  body += std::string(test.text) + ";\n" + Widen(ResultRegister(test.text));
  body += "ld.param.u64 %rd9, [p3]; st.global.u64 [%rd9], %rd0;";
  PtxProgram program(body, 4);
  program.launch.block = {1, 1, 1};
  const uint64_t out = program.Allocate(8);
  error = program.Run({test.a, test.b, test.c, out});
  uint64_t found;
  std::memcpy(&found, reinterpret_cast<const void*>(out), sizeof found);
  return found;
}

void Check(const std::vector<Case>& cases) {
  for (const Case& test : cases) {
    std::string error;
    const uint64_t found = Evaluate(test, error);
    ASSERT_EQ(error, "") << test.text;
    EXPECT_EQ(found, test.wanted) << test.text << std::hex << " of " << test.a << " " << test.b
                                  << " " << test.c << ": found " << found << " wanted "
                                  << test.wanted;
  }
}

constexpr uint64_t kMinus1 = 0xffffffffffffffffull, kMinus1As32 = 0xffffffffull;

TEST(Instructions, IntegerArithmetic) {
  Check({
      {"add.s32 %r0, %r1, %r2", 0x7fffffff, 1, 0, 0x80000000},
      {"add.u16 %h0, %h1, %h2", 0xffff, 2, 0, 1},
      {"add.s64 %rd0, %rd1, %rd2", kMinus1, 1, 0, 0},
      {"sub.s32 %r0, %r1, %r2", 3, 5, 0, 0xfffffffe},
      {"mul.lo.s32 %r0, %r1, %r2", 0x10001, 0x10001, 0, 0x20001},
      {"mul.hi.u32 %r0, %r1, %r2", 0xffffffff, 0xffffffff, 0, 0xfffffffe},
      {"mul.hi.s32 %r0, %r1, %r2", 0xffffffff, 0xffffffff, 0, 0},
      {"mul.hi.u64 %rd0, %rd1, %rd2", kMinus1, kMinus1, 0, kMinus1 - 1},
      {"mul.wide.u32 %rd0, %r1, %r2", 0xffffffff, 2, 0, 0x1fffffffe},
      {"mul.wide.s32 %rd0, %r1, %r2", 0xffffffff, 2, 0, kMinus1 - 1},
      {"mul.wide.u16 %r0, %h1, %h2", 0xffff, 0xffff, 0, 0xfffe0001},
      {"mad.lo.s32 %r0, %r1, %r2, %r3", 7, 8, 9, 65},
      {"mad.wide.s32 %rd0, %r1, %r2, %rd3", 0xffffffff, 3, 10, 7},
      {"div.s32 %r0, %r1, %r2", 0xfffffff9, 2, 0, 0xfffffffd},  // -7 / 2 = -3
      {"rem.s32 %r0, %r1, %r2", 0xfffffff9, 2, 0, kMinus1As32},
      {"div.u64 %rd0, %rd1, %rd2", kMinus1, 3, 0, 0x5555555555555555ull},
      {"min.s32 %r0, %r1, %r2", 0xffffffff, 1, 0, kMinus1As32},
      {"min.u32 %r0, %r1, %r2", 0xffffffff, 1, 0, 1},
      {"max.s64 %rd0, %rd1, %rd2", kMinus1, 1, 0, 1},
      {"abs.s32 %r0, %r1", 0xfffffffb, 0, 0, 5},
      {"neg.s64 %rd0, %rd1", 5, 0, 0, kMinus1 - 4},
  });
}

TEST(Instructions, Floats) {
  Check({
      {"add.rn.f32 %f0, %f1, %f2", F(1), F(0x1p-24f), 0, F(1)},  // a tie goes to even
      {"add.f32 %f0, %f1, %f2", F(1), F(0x1.8p-24f), 0, F(1 + 0x1p-23f)},
      {"sub.rn.f32 %f0, %f1, %f2", F(1), F(3), 0, F(-2)},
      {"mul.rn.f32 %f0, %f1, %f2", F(0x1p-100f), F(0x1p-40f), 0, F(0x1p-140f)},  // subnormals stay
      {"mul.ftz.f32 %f0, %f1, %f2", F(0x1p-100f), F(-0x1p-40f), 0, F(-0.0f)},
      {"fma.rn.f32 %f0, %f1, %f2, %f3", F(1 + 0x1p-12f), F(1 + 0x1p-12f), F(-1),
       F(0x1p-11f + 0x1p-24f)},
      {"fma.rn.f64 %fd0, %fd1, %fd2, %fd3", D(1 + 0x1p-30), D(1 - 0x1p-30), D(-1), D(-0x1p-60)},
      // What an H100 gives for 0 times infinity; x86 gives 0xffc00000.
      {"mul.f32 %f0, %f1, %f2", F(0), F(INFINITY), 0, 0x7fffffff},
      {"fma.rn.f32 %f0, %f1, %f2, %f3", F(0), F(-INFINITY), F(1), 0x7fffffff},
      {"add.f32 %f0, %f1, %f2", F(INFINITY), F(-INFINITY), 0, 0x7fffffff},
      {"fma.rm.f32 %f0, %f1, %f2, %f3", F(1), F(1), F(0x1p-30f), F(1)},
      {"fma.rm.f32 %f0, %f1, %f2, %f3", F(1), F(1), F(-0x1p-30f), F(1 - 0x1p-24f)},
      {"fma.rm.f32 %f0, %f1, %f2, %f3", F(-1), F(1), F(-0x1p-30f), F(-1 - 0x1p-23f)},
      {"rcp.approx.ftz.f64 %fd0, %fd1", D(4), 0, 0, D(0.25)},
      {"div.rn.f32 %f0, %f1, %f2", F(1), F(3), 0, F(0x1.555556p-2f)},
      {"rcp.rn.f32 %f0, %f1", F(0), 0, 0, kInf},
      {"sqrt.rn.f32 %f0, %f1", F(2), 0, 0, F(0x1.6a09e6p0f)},
      {"sqrt.rn.f64 %fd0, %fd1", D(2), 0, 0, D(0x1.6a09e667f3bcdp0)},
      {"ex2.approx.ftz.f32 %f0, %f1", F(-3), 0, 0, F(0.125f)},
      {"ex2.approx.ftz.f32 %f0, %f1", F(-140), 0, 0, 0},
      {"ex2.approx.f32 %f0, %f1", F(-140), 0, 0, F(0x1p-140f)},
      {"lg2.approx.f32 %f0, %f1", F(8), 0, 0, F(3)},
      {"min.f32 %f0, %f1, %f2", kNaN, F(2), 0, F(2)},
      {"min.f32 %f0, %f1, %f2", F(0.0f), F(-0.0f), 0, F(-0.0f)},
      {"max.f32 %f0, %f1, %f2", F(-0.0f), F(0.0f), 0, F(0.0f)},
      {"max.NaN.f32 %f0, %f1, %f2", kNaN, F(2), 0, kNaN},
      {"neg.f32 %f0, %f1", F(0), 0, 0, F(-0.0f)},
      {"abs.f32 %f0, %f1", F(-3), 0, 0, F(3)},
      {"copysign.f32 %f0, %f1, %f2", F(-1), F(5), 0, F(-5)},
      {"add.rn.f64 %fd0, %fd1, %fd2", D(0.1), D(0.2), 0, D(0.1 + 0.2)},
  });
}

TEST(Instructions, LogicAndBitFields) {
  Check({
      {"and.b32 %r0, %r1, %r2", 0xff00ff00, 0x0ff00ff0, 0, 0x0f000f00},
      {"or.b16 %h0, %h1, %h2", 0xf000, 0x000f, 0, 0xf00f},
      {"xor.b64 %rd0, %rd1, %rd2", kMinus1, 1, 0, kMinus1 - 1},
      {"not.b32 %r0, %r1", 0, 0, 0, kMinus1As32},
      {"not.pred %p0, %p1", 1, 0, 0, 0},
      {"and.pred %p0, %p1, !%p2", 1, 0, 0, 1},
      {"shl.b32 %r0, %r1, %r2", 3, 31, 0, 0x80000000},
      {"shl.b32 %r0, %r1, %r2", 3, 32, 0, 0},
      {"shr.u32 %r0, %r1, %r2", 0x80000000, 31, 0, 1},
      {"shr.s32 %r0, %r1, %r2", 0x80000000, 99, 0, kMinus1As32},
      {"shr.u64 %rd0, %rd1, %r2", kMinus1, 63, 0, 1},
      {"shf.l.wrap.b32 %r0, %r1, %r2, %r3", 0x80000000, 1, 33, 3},
      {"shf.r.clamp.b32 %r0, %r1, %r2, %r3", 5, 7, 40, 7},
      {"lop3.b32 %r0, %r1, %r2, %r3, 0xe8", 0xc, 0xa, 0x6, 0xe},  // majority
      {"prmt.b32 %r0, %r1, %r2, 0x7531", 0x44332211, 0x88776655, 0, 0x88664422},
      {"prmt.b32 %r0, %r1, %r2, 0x000b", 0x80000000, 0, 0, 0xff},
      {"bfe.u32 %r0, %r1, 4, 8", 0xabcdef12, 0, 0, 0xf1},
      {"bfe.s32 %r0, %r1, 4, 8", 0xabcdef12, 0, 0, 0xfffffff1},
      {"bfi.b32 %r0, %r1, %r2, 8, 4", 0x5, 0xffffffff, 0, 0xfffff5ff},
      {"bfind.u32 %r0, %r1", 0x00010000, 0, 0, 16},
      {"bfind.shiftamt.u32 %r0, %r1", 0x00010000, 0, 0, 15},
      {"bfind.u32 %r0, %r1", 0, 0, 0, kMinus1As32},
      {"popc.b32 %r0, %r1", 0xf0f0f0f0, 0, 0, 16},
      {"clz.b32 %r0, %r1", 0x00010000, 0, 0, 15},
      {"clz.b64 %r0, %rd1", 0, 0, 0, 64},
      {"brev.b32 %r0, %r1", 1, 0, 0, 0x80000000},
  });
}

TEST(Instructions, ComparisonAndSelection) {
  Check({
      {"setp.lt.s32 %p0, %r1, %r2", 0xffffffff, 0, 0, 1},
      {"setp.lt.u32 %p0, %r1, %r2", 0xffffffff, 0, 0, 0},
      {"setp.hs.u32 %p0, %r1, %r2", 4, 4, 0, 1},
      {"setp.ne.s64 %p0, %rd1, %rd2", 1, 2, 0, 1},
      {"setp.eq.f32 %p0, %f1, %f2", kNaN, kNaN, 0, 0},
      {"setp.ne.f32 %p0, %f1, %f2", kNaN, F(1), 0, 0},
      {"setp.neu.f32 %p0, %f1, %f2", kNaN, F(1), 0, 1},
      {"setp.leu.f32 %p0, %f1, %f2", F(2), F(1), 0, 0},
      {"setp.nan.f32 %p0, %f1, %f2", kNaN, F(1), 0, 1},
      {"setp.num.f64 %p0, %fd1, %fd2", D(1), D(2), 0, 1},
      {"setp.gt.and.s32 %p0, %r1, %r2, %p3", 2, 1, 0, 0},
      {"setp.gt.or.s32 %p0, %r1, %r2, !%p3", 0, 1, 0, 1},
      {"setp.eq.s32 %p9|%p0, %r1, %r2", 1, 1, 0, 0},
      {"selp.b32 %r0, %r1, %r2, %p3", 7, 8, 0, 8},
      {"selp.f32 %f0, %f1, %f2, %p3", F(7), F(8), 1, F(7)},
  });
}

TEST(Instructions, MovesAndConversions) {
  Check({
      {"mov.b64 %rd0, {%r1, %r2}", 0x11111111, 0x22222222, 0, 0x2222222211111111ull},
      {"mov.b32 {%h0, %h9}, %r1", 0xaaaabbbb, 0, 0, 0xbbbb},
      {"mov.b32 {_, %h0}, %r1", 0xaaaabbbb, 0, 0, 0xaaaa},
      {"cvt.s64.s32 %rd0, %r1", 0xfffffffe, 0, 0, kMinus1 - 1},
      {"cvt.u64.u32 %rd0, %r1", 0xfffffffe, 0, 0, 0xfffffffe},
      {"cvt.s32.s8 %r0, %r1", 0x80, 0, 0, 0xffffff80},
      {"cvt.u16.u32 %h0, %r1", 0x12345678, 0, 0, 0x5678},
      {"cvt.rzi.s32.f32 %r0, %f1", F(-2.7f), 0, 0, 0xfffffffe},
      {"cvt.rni.s32.f32 %r0, %f1", F(2.5f), 0, 0, 2},
      {"cvt.rmi.s32.f32 %r0, %f1", F(-2.5f), 0, 0, 0xfffffffd},
      {"cvt.rpi.f32.f32 %f0, %f1", F(2.1f), 0, 0, F(3)},
      {"cvt.rzi.u32.f32 %r0, %f1", F(-5), 0, 0, 0},
      {"cvt.rzi.s32.f32 %r0, %f1", F(1e20f), 0, 0, 0x7fffffff},
      {"cvt.rzi.s32.f32 %r0, %f1", kNaN, 0, 0, 0},
      {"cvt.sat.f32.f32 %f0, %f1", F(1.5f), 0, 0, F(1)},
      {"cvt.sat.f32.f32 %f0, %f1", kNaN, 0, 0, 0},
      {"cvt.rn.f32.s32 %f0, %r1", 0xffffffff, 0, 0, F(-1)},
      {"cvt.rn.f32.u32 %f0, %r1", 0xffffffff, 0, 0, F(4294967296.0f)},
      {"cvt.rn.f32.f64 %f0, %fd1", D(1 + 0x1p-24), 0, 0, F(1)},
      {"cvt.f64.f32 %fd0, %f1", F(0.1f), 0, 0, D(0.1f)},
      {"cvt.rn.bf16.f32 %h0, %f1", 0x3f808000, 0, 0, 0x3f80},  // a tie goes to even
      {"cvt.rn.bf16.f32 %h0, %f1", 0x3f818000, 0, 0, 0x3f82},
      {"cvt.rn.bf16x2.f32 %r0, %f1, %f2", F(1), F(2), 0, 0x3f804000},
      {"cvt.rn.f16.f32 %h0, %f1", F(65520.0f), 0, 0, 0x7c00},
      {"cvt.f32.f16 %f0, %h1", 0x0001, 0, 0, F(0x1p-24f)},
      {"cvt.rn.satfinite.e4m3x2.f32 %h0, %f1, %f2", F(448), F(-1000), 0, 0x7efe},
      {"cvt.rn.satfinite.e4m3x2.f32 %h0, %f1, %f2", F(0x1p-9f), F(0x1p-10f), 0, 0x0100},
      {"cvt.rn.satfinite.e5m2x2.f32 %h0, %f1, %f2", F(1), F(1e9f), 0, 0x3c7b},
      {"cvt.rn.f16x2.e4m3x2 %r0, %h1", 0x387e, 0, 0, 0x3c005f00},  // 1 and 448
  });
}

TEST(Instructions, UnknownOnesAreRefused) {
  for (const char* text :
       {"frobnicate.b32 %r0, %r1", "add.sat.s32 %r0, %r1, %r2", "cvt.rna.tf32.f32 %r0, %f1",
        "add.rz.f32 %f0, %f1, %f2", "ld.volatile.global.u32 %r0, [%rd1]", "cvt.rn.s32.f32 %r0, %f1",
        "cvt.f32.s32 %f0, %r1"}) {
    const PtxProgram program(std::string(text) + ";");
    EXPECT_NE(program.error().find("not modelled"), std::string::npos) << text;
    EXPECT_NE(program.error().find("PTX line"), std::string::npos) << program.error();
  }
  EXPECT_NE(PtxProgram("add.s32 %r0, %r1, %zz;").error().find("unknown operand '%zz'"),
            std::string::npos);
  EXPECT_NE(PtxProgram(".frob 3;").error().find("unknown directive '.frob'"), std::string::npos);
}

}  // namespace
}  // namespace sluice::cuda_double
