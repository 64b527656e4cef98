// What keeps the conformance tests complete: every opcode that the double knows is met in one.
#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "tests/cuda_double/exec/decode.h"
#include "tests/support/source_path.h"

namespace sluice::cuda_double {
namespace {

// The double's own tests, in one text.
std::string TextOfTests() {
  std::ostringstream text;
  for (const auto& entry :
       std::filesystem::directory_iterator(testing::SourcePath("tests/cuda_double"))) {
    if (!entry.is_regular_file() || entry.path().extension() != ".cc") continue;
    text << std::ifstream(entry.path()).rdbuf();
  }
  return text.str();
}

// As an instruction is written: "shfl.sync", "trap;", "bra LABEL", but neither ".add" nor "padd.".
bool IsUsed(const std::string& text, const std::string& opcode) {
  const auto is_part = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
  };
  for (size_t at = text.find(opcode); at != text.npos; at = text.find(opcode, at + 1)) {
    const size_t end = at + opcode.size();
    const bool begins = at > 0 && !is_part(text[at - 1]);
    if (!begins || end >= text.size()) continue;
    if (text[end] == '.' || text[end] == ';' || (opcode == "bra" && text[end] == ' ')) return true;
  }
  return false;
}

TEST(Opcodes, EachIsMetInATest) {
  const std::string text = TextOfTests();
  ASSERT_GT(KnownOpcodes().size(), 50u);
  for (const std::string& opcode : KnownOpcodes()) {
    EXPECT_TRUE(IsUsed(text, opcode)) << opcode << ": no test of tests/cuda_double has it";
  }
  EXPECT_FALSE(IsUsed("\"padd.s32\" // x.add.s32", "add"));
}

}  // namespace
}  // namespace sluice::cuda_double
