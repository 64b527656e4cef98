// A room includes only what lies below it. The table is docs/design.md's "Dependency direction".
#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/lint/source_files.h"

namespace sluice {
namespace {

const std::vector<std::string> kRooms = {"kernels", "parallel", "data", "checkpoints",
                                         "trainer", "launch",   "tests"};

bool StartsWith(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

std::string FolderOf(const std::string& path) {
  return SourceFile{.path = path, .lines = {}}.folder();
}

bool IsBelow(const std::string& folder, const std::string& top) {
  return folder == top || StartsWith(folder, top + "/");
}

// What a folder may include besides itself: folders with all below them, or single headers.
std::vector<std::string> AllowedFor(const SourceFile& file) {
  const std::string folder = file.folder();
  const std::vector<std::string> plain = {"kernels/core/check.h", "kernels/core/status_macros.h"};
  static const std::map<std::string, std::vector<std::string>> kTable = {
      {"kernels/core", {}},
      {"kernels/ops", {"kernels/core"}},
      {"kernels/reference", {"kernels/core", "kernels/ops"}},
      {"kernels/cpu", {"kernels/core", "kernels/ops"}},
      {"kernels/cuda", {"kernels/core", "kernels/ops"}},
      {"kernels/vendor", {"kernels/core", "kernels/cuda"}},
      {"kernels", {"kernels"}},
      {"parallel/comm", {"kernels/core", "parallel/mesh"}},
      {"parallel/nccl",
       {"parallel/comm", "parallel/mesh", "kernels/cuda", "kernels/ops", "kernels/core"}},
      {"parallel/pipeline",
       {"parallel/comm", "parallel/mesh", "parallel/schedule", "kernels/ops", "kernels/core"}},
      {"parallel/expert",
       {"parallel/comm", "parallel/mesh", "parallel/schedule", "kernels/ops", "kernels/core"}},
      {"parallel/shard",
       {"parallel/comm", "parallel/mesh", "parallel/schedule", "kernels/ops", "kernels/core"}},
      {"data", {"kernels/core"}},
      {"checkpoints", {"kernels/core"}},
      {"checkpoints/huggingface", {"kernels/core", "checkpoints"}},
      {"trainer/model", {"kernels", "parallel", "data", "checkpoints"}},
      {"trainer/optim", {"kernels", "parallel", "data", "checkpoints", "trainer/model"}},
      {"trainer/loop",
       {"kernels", "parallel", "data", "checkpoints", "trainer/model", "trainer/optim"}},
  };
  if (folder == "kernels/ops" && file.has_any_suffix({".cc", "/dispatch.h"})) return {"kernels"};
  if (folder == "parallel/mesh") return plain;
  std::vector<std::string> allowed = plain;
  if (folder == "parallel/schedule") {
    allowed.insert(allowed.end(), {"parallel/mesh"});
    return allowed;
  }
  if (folder == "parallel/sim") {
    allowed.insert(allowed.end(), {"parallel/mesh", "parallel/schedule"});
    return allowed;
  }
  if (folder == "parallel/plan") {
    allowed.insert(allowed.end(), {"parallel/mesh", "parallel/schedule", "parallel/sim"});
    return allowed;
  }
  if (IsBelow(folder, "launch"))
    return {"kernels", "parallel", "data", "checkpoints", "trainer", "launch"};
  const auto found = kTable.find(folder);
  return found == kTable.end() ? std::vector<std::string>{} : found->second;
}

// The file named by an #include "..." or a proto's import; includes with <> keep their brackets.
std::optional<std::string> IncludedBy(const std::string& line) {
  const size_t start = line.find_first_not_of(' ');
  if (start == std::string::npos) return std::nullopt;
  const std::string text = line.substr(start);
  if (!StartsWith(text, "#include") && !StartsWith(text, "import \"")) return std::nullopt;
  const size_t open = text.find_first_of("\"<");
  if (open == std::string::npos) return std::nullopt;  // a macro
  const char close = text[open] == '"' ? '"' : '>';
  const std::string name = text.substr(open + 1, text.find(close, open + 1) - open - 1);
  return close == '>' ? "<" + name + ">" : name;
}

// Headers of libraries that one room, or one file, keeps to itself.
struct Kept {
  std::string header;  // begins with
  std::vector<std::string> where;
};
const std::vector<Kept>& KeptHeaders() {
  static const std::vector<Kept> kKept = {
      {"mpi.h", {"parallel/comm/mpi.cc", "tests/bench/collective_bench.cc"}},
      {"CLI/", {"launch/parse_flags.cc"}},
      {"google/protobuf/", {"parallel/plan", "data", "checkpoints", "trainer", "launch", "tests"}},
      {"absl/log/", {}},
      {"absl/synchronization/", {}},  // not instrumented for ThreadSanitizer on Debian
      {"cuda", {"kernels/cuda", "tests/cuda_double", "tests/cuda"}},
      {"cublas", {"kernels/vendor"}},
      {"cudnn", {"kernels/vendor"}},
      {"nccl.h", {"parallel/nccl", "tests/cuda_double"}},
  };
  return kKept;
}

// "" if `file` may include `included`, else why not.
std::string WhyNot(const SourceFile& file, const std::string& included) {
  std::string bare = included;
  bare.erase(std::remove_if(bare.begin(), bare.end(), [](char c) { return c == '<' || c == '>'; }),
             bare.end());
  for (const Kept& kept : KeptHeaders()) {
    if (!StartsWith(bare, kept.header)) continue;
    const bool is_fine =
        std::any_of(kept.where.begin(), kept.where.end(), [&](const std::string& place) {
          return file.path == place || IsBelow(file.folder(), place);
        });
    return is_fine ? "" : "keeps to its own room";
  }
  const std::string target = FolderOf(included);
  const bool is_ours = std::any_of(kRooms.begin(), kRooms.end(),
                                   [&](const std::string& room) { return IsBelow(target, room); });
  if (!is_ours || target == file.folder() || StartsWith(file.path, "tests/")) return "";
  if (StartsWith(target, "tests")) return "nothing includes tests";
  for (const std::string& allowed : AllowedFor(file)) {
    if (included == allowed || IsBelow(target, allowed)) return "";
  }
  return "is not below " + file.folder();
}

std::vector<std::string> Violations(const SourceFile& file) {
  std::vector<std::string> violations;
  for (size_t i = 0; i < file.lines.size(); ++i) {
    const std::optional<std::string> included = IncludedBy(file.lines[i]);
    if (!included.has_value()) continue;
    const std::string why = WhyNot(file, *included);
    if (why.empty()) continue;
    violations.push_back(file.path + ":" + std::to_string(i + 1) + ": " + *included + " " + why);
  }
  return violations;
}

TEST(IncludeGraph, EveryEdgePointsDown) {
  int files = 0;
  for (const SourceFile& file : ReadSourceFiles(CodeFolders())) {
    if (!file.has_any_suffix({".h", ".cc", ".cu", ".cuh", ".proto"})) continue;
    ++files;
    for (const std::string& violation : Violations(file)) ADD_FAILURE() << violation;
  }
  EXPECT_GT(files, 30) << "the project was not found";
}

// Whether CUDA is built is known where a backend is chosen, and nowhere else.
TEST(IncludeGraph, TheCudaMacroStaysWhereBackendsAreChosen) {
  const std::vector<std::string> places = {"kernels/ops/dispatch.h", "kernels/create_device.cc",
                                           "tests/lint/include_graph_test.cc"};
  int found = 0;
  for (const SourceFile& file : ReadSourceFiles(CodeFolders())) {
    if (!file.has_any_suffix({".h", ".cc", ".cu", ".cuh"})) continue;
    const bool has_macro = std::any_of(
        file.lines.begin(), file.lines.end(),
        [](const std::string& line) { return line.find("SLUICE_WITH_CUDA") != std::string::npos; });
    if (has_macro) ++found;
    EXPECT_TRUE(!has_macro || std::count(places.begin(), places.end(), file.path) == 1)
        << file.path;
  }
  EXPECT_GE(found, 3);
}

TEST(IncludeGraph, APlantedEdgeIsNamedWithFileAndLine) {
  const auto of = [](const std::string& path, const std::string& line) {
    return Violations({.path = path, .lines = {"#pragma once", line}});
  };
  EXPECT_EQ(
      of("kernels/core/x.h", "#include \"kernels/ops/cast.h\""),
      std::vector<std::string>{"kernels/core/x.h:2: kernels/ops/cast.h is not below kernels/core"});
  EXPECT_EQ(of("kernels/ops/x.h", "#include \"kernels/cpu/target.h\"").size(), 1u);
  EXPECT_EQ(of("kernels/ops/x.cc", "#include \"kernels/cpu/target.h\"").size(), 0u);
  EXPECT_EQ(of("kernels/ops/x.h", "#include \"kernels/cuda/ops.h\"").size(), 1u);
  EXPECT_EQ(of("kernels/cuda/x.cu", "#include \"kernels/cpu/target.h\"").size(), 1u);
  EXPECT_EQ(of("kernels/cuda/x.cu", "#include <cuda_bf16.h>").size(), 0u);
  EXPECT_EQ(of("trainer/loop/x.cc", "#include <cuda_runtime_api.h>").size(), 1u);
  EXPECT_EQ(of("kernels/cpu/x.cc", "#include \"kernels/reference/x.h\"").size(), 1u);
  EXPECT_EQ(of("parallel/mesh/x.h", "#include \"kernels/core/tensor_view.h\"").size(), 1u);
  EXPECT_EQ(of("parallel/mesh/x.h", "#include \"kernels/core/check.h\"").size(), 0u);
  EXPECT_EQ(of("parallel/schedule/x.h", "#include \"parallel/comm/communicator.h\"").size(), 1u);
  EXPECT_EQ(of("parallel/shard/x.h", "#include \"trainer/model/module.h\"").size(), 1u);
  EXPECT_EQ(of("data/x.cc", "#include \"checkpoints/crc32c.h\"").size(), 1u);
  EXPECT_EQ(of("data/x.proto", "import \"trainer/model/model.proto\";").size(), 1u);
  EXPECT_EQ(of("trainer/model/x.h", "#include \"trainer/loop/trainer.h\"").size(), 1u);
  EXPECT_EQ(of("trainer/loop/x.cc", "#include \"launch/machine.h\"").size(), 1u);
  EXPECT_EQ(of("trainer/loop/x.cc", "#include <mpi.h>").size(), 1u);
  EXPECT_EQ(of("parallel/comm/mpi.cc", "#include <mpi.h>").size(), 0u);
  EXPECT_EQ(of("launch/x.cc", "#include \"tests/support/near.h\"").size(), 1u);
  EXPECT_EQ(of("launch/commands/x.cc", "#include \"absl/log/log.h\"").size(), 1u);
  EXPECT_EQ(of("kernels/core/x.cc", "#include \"absl/status/status.h\"").size(), 0u);
}

}  // namespace
}  // namespace sluice
