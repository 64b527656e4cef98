// The limits and habits that a reader of any file may count on.
#include <algorithm>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/lint/source_files.h"

namespace sluice {
namespace {

constexpr size_t kMaxLines = 500;

std::string At(const SourceFile& file, size_t index) {
  return file.path + ":" + std::to_string(index + 1) + ": ";
}

std::string WithoutComment(const std::string& line) { return line.substr(0, line.find("//")); }

// `word` in `text` with no letter, digit or underscore beside it.
bool HasWord(const std::string& text, const std::string& word) {
  const auto is_part = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  };
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const bool begins = at == 0 || !is_part(text[at - 1]);
    const bool ends = at + word.size() == text.size() || !is_part(text[at + word.size()]);
    if (begins && ends) return true;
  }
  return false;
}

std::vector<SourceFile> CodeFiles() {
  std::vector<SourceFile> files;
  for (SourceFile& file : ReadSourceFiles(CodeFolders())) {
    if (file.has_any_suffix({".h", ".cc", ".cu", ".cuh", ".proto"})) files.push_back(file);
  }
  return files;
}

TEST(SourceForm, NoFileIsLongerThanItsLimit) {
  ASSERT_GT(CodeFiles().size(), 30u) << "the project was not found";
  for (const SourceFile& file : CodeFiles()) {
    EXPECT_LE(file.lines.size(), kMaxLines) << file.path << ": split it";
  }
}

TEST(SourceForm, EveryHeaderIsIncludedOnce) {
  for (const SourceFile& file : CodeFiles()) {
    // -inl.h files are compiled once for each instruction set.
    if (!file.has_suffix(".h") || file.has_any_suffix({"-inl.h", "foreach_target.h"})) continue;
    EXPECT_TRUE(std::count(file.lines.begin(), file.lines.end(), "#pragma once") == 1) << file.path;
  }
}

TEST(SourceForm, SourceIsAsciiWithoutTabs) {
  std::vector<SourceFile> files = ReadSourceFiles(
      {"", "kernels", "parallel", "checkpoints", "trainer", "launch", "tests", ".ci"});
  for (const SourceFile& file : CodeFiles()) files.push_back(file);  // data/ without its texts
  for (const SourceFile& file : files) {
    if (file.has_any_suffix({".md", ".json", ".bin", ".zst"}) || file.path == "LICENSE") continue;
    const auto is_plain = [](const std::string& line) {
      return std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; });
    };
    const auto bad = std::find_if_not(file.lines.begin(), file.lines.end(), is_plain);
    EXPECT_TRUE(bad == file.lines.end())
        << At(file, bad - file.lines.begin()) << "a tab, or a character outside ASCII";
  }
}

TEST(SourceForm, NothingKnowsTheMachineItWasWrittenOn) {
  // Split, so that this file passes too.
  const std::vector<std::string> places = {
      "/wo"
      "rk/",
      "/ho"
      "me/",
      "/Us"
      "ers/",
      "/ro"
      "ot/"};
  for (const SourceFile& file : ReadSourceFiles({"", "kernels", "parallel", "checkpoints",
                                                 "trainer", "launch", "tests", "docs", ".ci"})) {
    for (size_t i = 0; i < file.lines.size(); ++i) {
      for (const std::string& place : places) {
        EXPECT_EQ(file.lines[i].find(place), std::string::npos) << At(file, i) << place;
      }
    }
  }
}

// An op launches and returns, so that a stream can record it as a graph: to wait and to allocate
// are the device's and the stream's.
TEST(SourceForm, CudaOpsNeitherAllocateNorWait) {
  const std::vector<std::string> calls = {
      "cudaMalloc",      "cudaMallocAsync", "cudaMallocManaged",     "cudaMallocHost",
      "cudaFree",        "cudaFreeAsync",   "cudaDeviceSynchronize", "cudaStreamSynchronize",
      "cudaMemcpy",      "cudaMemset",      "cudaEventSynchronize",  "cudaFreeHost",
      "cudaStreamCreate"};
  const std::vector<std::string> may = {"kernels/cuda/cuda_device.cc",
                                        "kernels/cuda/cuda_stream.cc"};
  int ops = 0;
  for (const SourceFile& file : ReadSourceFiles({"kernels/cuda"})) {
    if (std::count(may.begin(), may.end(), file.path) != 0) continue;
    ops += file.has_suffix(".cu") ? 1 : 0;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      for (const std::string& call : calls) {
        EXPECT_FALSE(HasWord(WithoutComment(file.lines[i]), call)) << At(file, i) << call;
      }
    }
  }
  EXPECT_GT(ops, 20);
}

TEST(SourceForm, NoExceptionsNoFastMathNoAbslMutex) {
  for (const SourceFile& file : CodeFiles()) {
    for (size_t i = 0; i < file.lines.size(); ++i) {
      const std::string code = WithoutComment(file.lines[i]);
      if (file.folder() == "tests/lint") continue;  // speaks of them
      if (code.find('"') == std::string::npos) {
        EXPECT_FALSE(HasWord(code, "throw")) << At(file, i) << "return a Status, or CHECK";
      }
      EXPECT_FALSE(HasWord(code, "absl::Mutex")) << At(file, i) << "use std::mutex";
    }
  }
  for (const SourceFile& file : ReadSourceFiles({"", "launch/cmake", "tests"})) {
    if (!file.has_any_suffix({"CMakeLists.txt", ".cmake", "CMakePresets.json"})) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      EXPECT_EQ(file.lines[i].find("-ffast-math"), std::string::npos) << At(file, i);
    }
  }
}

}  // namespace
}  // namespace sluice
