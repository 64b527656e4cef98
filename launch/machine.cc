#include "launch/machine.h"

#include <sched.h>
#include <unistd.h>

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

// Of a control group.
int64_t FileCacheBytes(const std::string& group) {
  std::ifstream file(group + "memory.stat");
  int64_t bytes = 0, number = 0;
  for (std::string name; file >> name >> number;) {
    if (name == "inactive_file" || name == "active_file") bytes += number;
  }
  return bytes;
}

}  // namespace

int UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

int ThreadsPerRank(int ranks_on_host) { return std::max(1, UsableCores() / ranks_on_host); }

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "";
}

MemorySize ReadMemorySize(const std::string& root) {
  MemorySize memory;
  std::ifstream file(root + "/proc/meminfo");
  std::string name;
  std::string unit;
  int64_t kibibytes = 0;
  while (file >> name >> kibibytes) {
    if (name == "MemTotal:") memory.total_bytes = kibibytes * 1024;
    if (name == "MemAvailable:") memory.available_bytes = kibibytes * 1024;
    std::getline(file, unit);
  }
  const std::string group = root + "/sys/fs/cgroup/";
  const int64_t limit = ReadNumber(group + "memory.max", memory.total_bytes);
  if (limit < memory.total_bytes) {
    const int64_t used = ReadNumber(group + "memory.current", 0) - FileCacheBytes(group);
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
