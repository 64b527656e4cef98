#include "launch/machine.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice::launch {
namespace {

// The number a file of the kernel begins with, or `otherwise` ("max", or no such file).
int64_t ReadNumber(const std::string& path, int64_t otherwise) {
  int64_t number = 0;
  return std::ifstream(path) >> number ? number : otherwise;
}

}  // namespace

int UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

int ThreadsPerRank(int ranks_on_host) { return std::max(1, UsableCores() / ranks_on_host); }

MemorySize ReadMemorySize() {
  MemorySize memory;
  std::ifstream file("/proc/meminfo");
  std::string name;
  std::string unit;
  int64_t kibibytes = 0;
  while (file >> name >> kibibytes) {
    if (name == "MemTotal:") memory.total_bytes = kibibytes * 1024;
    if (name == "MemAvailable:") memory.available_bytes = kibibytes * 1024;
    std::getline(file, unit);
  }
  const int64_t limit = ReadNumber("/sys/fs/cgroup/memory.max", memory.total_bytes);
  const int64_t used = ReadNumber("/sys/fs/cgroup/memory.current", 0);
  if (limit < memory.total_bytes) {
    memory.total_bytes = limit;
    memory.available_bytes = std::min(memory.available_bytes, std::max<int64_t>(0, limit - used));
  }
  return memory;
}

absl::StatusOr<std::string> SampleTextDir() {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path binary_dir = fs::read_symlink("/proc/self/exe", error).parent_path();
  const std::vector<fs::path> places = {binary_dir / "../data/samples",
                                        binary_dir / "../share/sluice/samples",
                                        fs::path(SLUICE_SOURCE_DIR) / "data/samples"};
  std::string tried;
  for (const fs::path& place : places) {
    if (fs::is_directory(place, error)) return fs::weakly_canonical(place, error).string();
    absl::StrAppend(&tried, tried.empty() ? "" : ", ", place.string());
  }
  return absl::NotFoundError(absl::StrCat("the bundled sample text is missing; looked in ", tried));
}

}  // namespace sluice::launch
