// The table of bubbles in docs/design.md: closed forms beside what the simulator plays, line by
// line as the document has them.   P ranks, n microbatches; F, I, W a rank's forward of a
// microbatch and the halves of its backward, B = I + W
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "parallel/schedule/schedule.h"
#include "parallel/sim/simulate.h"
#include "tests/plan/test_schedules.h"
#include "tests/support/source_path.h"

namespace sluice::parallel {
namespace {

struct Durations {
  double f, i, w;
  double b() const { return i + w; }
};

struct Row {
  const char* name;
  const char* form;
  double (*idle)(int p, const Durations& d);  // of each rank
  bool at_most = false;                       // where F and I differ
};
const Row kRows[] = {
    {"gpipe", "(P-1)(F+B)", [](int p, const Durations& d) { return (p - 1) * (d.f + d.b()); }},
    {"1f1b", "(P-1)(F+B)", [](int p, const Durations& d) { return (p - 1) * (d.f + d.b()); }},
    {"interleaved", "(P-1)(F+B)/2",
     [](int p, const Durations& d) { return (p - 1) * (d.f + d.b()) / 2; }},
    {"zb_h1", "(P-1)(F+B-2W)",
     [](int p, const Durations& d) { return (p - 1) * (d.f + d.b() - 2 * d.w); }},
    {"dualpipe", "(P/2-1)(F+2B-3W)",
     [](int p, const Durations& d) { return (p / 2 - 1) * (d.f + 2 * d.b() - 3 * d.w); }, true},
    {"dualpipe_v", "(P-1)(F+2B-3W)/2",
     [](int p, const Durations& d) { return (p - 1) * (d.f + 2 * d.b() - 3 * d.w) / 2; }, true},
};

Timeline PlayRow(const Row& row, int p, const Durations& d) {
  const int chunks = DefaultChunks(row.name);  // of which each has its share of a rank's layers
  const Schedule schedule = MakeSchedule(row.name, {p, 4 * p, chunks}).value();
  const StepCosts costs =
      testing::EvenCosts(schedule.num_stages, d.f / chunks, d.i / chunks, d.w / chunks);
  return Simulate({.schedule = &schedule, .costs = &costs}).value();
}

// "| zb_h1 | (P-1)(F+B-2W) | 1 / 1 (4.0%) | ..."
std::string LineOf(const Row& row, const Durations& d) {
  std::string line = absl::StrCat("| ", row.name, " | ", row.form, " |");
  for (const int p : {2, 4, 8}) {
    const Timeline timeline = PlayRow(row, p, d);
    const double wanted = row.idle(p, d);
    double most = 0;
    for (const RankTimes& rank : timeline.ranks) {
      most = std::max(most, rank.idle);
      if (!row.at_most || d.f == d.i) {
        EXPECT_NEAR(rank.idle, wanted, 1e-9) << row.name << " " << p;
      } else {
        EXPECT_LE(rank.idle, wanted + 1e-9) << row.name << " " << p;
      }
    }
    absl::StrAppendFormat(&line, " %g / %.4g (%.1f%%) |", wanted, most, 100 * timeline.bubble());
  }
  return line;
}

TEST(BubbleTable, OfTheDocumentIsWhatIsPlayed) {
  std::ifstream file(::sluice::testing::SourcePath("docs/design.md"));
  std::stringstream document;
  document << file.rdbuf();
  for (const Durations& d : {Durations{1, 1, 1}, Durations{1, 1.5, 0.5}}) {
    std::string table;
    for (const Row& row : kRows) absl::StrAppend(&table, LineOf(row, d), "\n");
    EXPECT_NE(document.str().find(table), std::string::npos)
        << "docs/design.md, F " << d.f << " I " << d.i << " W " << d.w << ", wanted:\n"
        << table;
  }
}

}  // namespace
}  // namespace sluice::parallel
