#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "parallel/schedule/play.h"

namespace sluice::parallel {
namespace {

using internal::TimeSpan;

// Characters of one time unit: the longest action must fit into its duration, and a space.
int WidthOfUnit(const Schedule& schedule) {
  int width = 1;
  for (const auto& actions : schedule.actions) {
    for (const Action& action : actions) {
      const int units = static_cast<int>(internal::DurationOf(action.kind, {}));
      if (units == 0) continue;
      const int length = static_cast<int>(ToText(action).size()) + 1;
      width = std::max(width, (length + units - 1) / units);
    }
  }
  return width;
}

// `text` at `column`, the gap before it filled; text that is already there is not overwritten.
void PutAt(std::string& line, size_t column, char fill, absl::string_view text) {
  if (line.size() < column) line.append(column - line.size(), fill);
  line.append(text.data(), text.size());
}

}  // namespace

std::string DrawGrid(const Schedule& schedule, int mark_rank, int mark_step) {
  const internal::Playback playback = internal::Play(schedule);
  const int unit = WidthOfUnit(schedule);
  std::string grid;
  for (int rank = 0; rank < schedule.num_ranks(); ++rank) {
    const std::vector<Action>& actions = schedule.actions[rank];
    std::string line = absl::StrCat("rank ", rank, std::string(rank < 10 ? 2 : 1, ' '));
    const size_t left = line.size();
    int64_t now = 0;
    for (int step = 0; step < playback.num_done[rank]; ++step) {
      const TimeSpan& span = playback.spans[rank][step];
      if (span.finish == span.start) continue;  // messages take no time and are not drawn
      for (; now < span.start; ++now) PutAt(line, left + now * unit, ' ', ".");
      PutAt(line, left + span.start * unit, ' ', ToText(actions[step]));
      PutAt(line, left + span.finish * unit - 1, '-', "");
      now = span.finish;
    }
    const size_t end = left + now * unit;
    const int stuck = playback.num_done[rank];
    const int num_left = static_cast<int>(actions.size()) - stuck;
    if (num_left > 0) {
      PutAt(line, end, ' ', absl::StrCat("stuck at ", ToText(actions[stuck])));
      if (num_left > 1) absl::StrAppend(&line, " and ", num_left - 1, " more");
    }
    absl::StrAppend(&grid, line, "\n");
    if (rank != mark_rank) continue;
    const bool ran = mark_step >= 0 && mark_step < stuck;
    std::string mark;
    PutAt(mark, ran ? left + playback.spans[rank][mark_step].start * unit : end, ' ', "^ ");
    const bool is_action = mark_step >= 0 && mark_step < static_cast<int>(actions.size());
    absl::StrAppend(
        &grid, mark,
        is_action ? absl::StrCat(ToText(actions[mark_step]), ", action ", mark_step) : "here",
        "\n");
  }
  return grid;
}

}  // namespace sluice::parallel
