// The machine code of the products: that ptxas made of wgmma and TMA what they are there for, and
// that nothing lies in local memory. Needs cuobjdump and nvdisasm, which the toolkit or PyPI's
// nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm have.
#include "tests/cuda/sass.h"

#include <gtest/gtest.h>
#include <stdio.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/cuda/planted.h"

namespace sluice::testing {
namespace {

// The output of cuobjdump for an object or a cubin; "" where it cannot be run.
std::string Disassemble(const std::string& path) {
  const std::string tool = SLUICE_CUOBJDUMP;
  const std::string folder = std::filesystem::path(tool).parent_path().string();
  FILE* pipe =
      popen(("PATH=" + folder + ":$PATH " + tool + " -sass " + path + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "";
  std::string text;
  char buffer[65536];
  for (size_t n = 0; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) text.append(buffer, n);
  return pclose(pipe) == 0 ? text : "";
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

// Objects of kernels/cuda whose file name begins so.
SassByKernel SassOf(const std::string& begin) {
  SassByKernel kernels;
  for (const auto& entry : std::filesystem::directory_iterator(SLUICE_REPORTS)) {
    const std::string path = entry.path().string();
    const std::string name = entry.path().filename().string();
    if (name.rfind(begin, 0) != 0 || entry.path().extension() != ".o") continue;
    if (!Contains(path, ".cu.o")) continue;
    for (auto& [name, instructions] : ParseSass(Disassemble(path))) kernels[name] = instructions;
  }
  return kernels;
}

bool HasTool() { return !std::string(SLUICE_CUOBJDUMP).empty(); }

#define SKIP_WITHOUT_TOOL()                                                       \
  if (!HasTool())                                                                 \
  GTEST_SKIP() << "not checked: no cuobjdump (pip install nvidia-cuda-cuobjdump " \
                  "nvidia-cuda-nvdisasm, then configure again)"

void ExpectNoLocalMemory(const std::string& name, const std::set<std::string>& instructions) {
  for (const char* local : {"LDL", "STL"}) {
    EXPECT_EQ(instructions.count(local), 0u) << name << ": " << local;
  }
}

TEST(Sass, ProductsOfHopperUseWgmmaAndTma) {
  SKIP_WITHOUT_TOOL();
  int num_fp8 = 0, num_bf16 = 0;
  for (const auto& [name, instructions] : SassOf("hopper_matmul")) {
    if (!Contains(name, "hopper_matmul_kernel")) continue;
    const bool fp8 = instructions.count("QGMMA") != 0, bf16 = instructions.count("HGMMA") != 0;
    EXPECT_TRUE(fp8 != bf16) << name << ": QGMMA " << fp8 << ", HGMMA " << bf16;
    EXPECT_EQ(instructions.count("UTMALDG"), 1u) << name << " loads nothing by TMA";
    // Products by mma.sync would be HMMA.
    EXPECT_EQ(instructions.count("HMMA"), 0u) << name;
    ExpectNoLocalMemory(name, instructions);
    (fp8 ? num_fp8 : num_bf16) += 1;
  }
  EXPECT_GT(num_fp8, 0);
  EXPECT_GT(num_bf16, 0);
  std::printf("%d kernels of QGMMA, %d of HGMMA, all with UTMALDG\n", num_fp8, num_bf16);
}

TEST(Sass, AttentionOfHopperUsesWgmmaAndTma) {
  SKIP_WITHOUT_TOOL();
  int found = 0;
  for (const auto& [name, instructions] : SassOf("attention_hopper")) {
    if (!Contains(name, "attention_hopper")) continue;
    for (const char* wanted : {"HGMMA", "UTMALDG"}) {
      EXPECT_EQ(instructions.count(wanted), 1u) << name << ": " << wanted;
    }
    EXPECT_EQ(instructions.count("HMMA"), 0u) << name;
    ExpectNoLocalMemory(name, instructions);
    ++found;
  }
  EXPECT_EQ(found, 9);  // forward, and two of backward, of three widths each
}

TEST(Sass, ProductsByMmaSyncUseTheTensorCores) {
  SKIP_WITHOUT_TOOL();
  int found = 0;
  for (const char* file : {"attention_mma", "fp8_matmul.cu", "matmul.cu"}) {
    const SassByKernel kernels = SassOf(file);
    EXPECT_FALSE(kernels.empty()) << file;
    for (const auto& [name, instructions] : kernels) {
      ExpectNoLocalMemory(name, instructions);
      // Of FP32 by plain multiply-adds.
      const bool has = instructions.count("HMMA") != 0 || instructions.count("QMMA") != 0;
      EXPECT_TRUE(has || instructions.count("FFMA") != 0) << name;
      found += has ? 1 : 0;
    }
  }
  EXPECT_GE(found, 14);  // six of attention, three of codes, five of BF16
}

TEST(Sass, LocalMemoryOfAPlantedKernelIsFound) {
  SKIP_WITHOUT_TOOL();
  const PlantedCubin planted("planted_sass", kSpillingKernel);
  ASSERT_TRUE(planted.is_compiled()) << planted.report();
  const SassByKernel kernels = ParseSass(Disassemble(planted.path()));
  ASSERT_EQ(kernels.size(), 1u);
  for (const char* local : {"LDL", "STL"}) {
    EXPECT_EQ(kernels.begin()->second.count(local), 1u) << local;
  }
}

TEST(Sass, LocalMemoryAndInstructionsAreRead) {
  const SassByKernel kernels = ParseSass(
      "\t\tFunction : _Z1av\n"
      "        /*0000*/                   LDC R1, c[0x0][0x28] ;   /* 0x00000a00ff017b82 */\n"
      "                                                            /* 0x000fe20000000800 */\n"
      "        /*0010*/              @!P0 STL.64 [R1+0x8], R2 ;    /* 0x0000080201007387 */\n"
      "        /*0020*/                   EXIT ;                   /* 0x000000000000794d */\n"
      "\t\tFunction : _Z1bv\n"
      "        /*0000*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR8] ;\n");
  ASSERT_EQ(kernels.size(), 2u);
  EXPECT_EQ(kernels.at("_Z1av"), (std::set<std::string>{"LDC", "STL", "EXIT"}));
  EXPECT_EQ(kernels.at("_Z1bv"), (std::set<std::string>{"QGMMA"}));
}

}  // namespace
}  // namespace sluice::testing
