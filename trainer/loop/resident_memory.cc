#include "trainer/loop/resident_memory.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::trainer {

int64_t ResidentBytes() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind("RssAnon:", 0) != 0) continue;
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t kilobytes = 0;
    if (words.size() >= 2 && absl::SimpleAtoi(words[1], &kilobytes)) return kilobytes * 1024;
  }
  return 0;
}

absl::StatusOr<std::string> CompareResident(parallel::Communicator& world, int64_t table,
                                            int64_t resident) {
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   world.GatherBytes(absl::StrCat(table, " ", resident)));
  int worst_rank = 0;
  int64_t worst_table = table, worst_resident = resident;
  for (int rank = 1; rank < static_cast<int>(all.size()); ++rank) {
    const std::vector<std::string> numbers = absl::StrSplit(all[rank], ' ');
    int64_t its_table = 0, its_resident = 0;
    CHECK(numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &its_table) &&
          absl::SimpleAtoi(numbers[1], &its_resident));
    if (std::abs(its_resident - its_table) <= std::abs(worst_resident - worst_table)) continue;
    worst_rank = rank;
    worst_table = its_table;
    worst_resident = its_resident;
  }
  const double mib = 1048576.0;
  return absl::StrFormat(
      "resident memory since the start: %.1f MiB, %+.1f MiB beside the table (rank %d of %d)",
      worst_resident / mib, (worst_resident - worst_table) / mib, worst_rank, all.size());
}

}  // namespace sluice::trainer
