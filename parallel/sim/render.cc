#include "parallel/sim/render.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::parallel {
namespace {

struct Look {
  char letter;
  const char* color;
  const char* meaning;
};

// In the order of the legend.
constexpr Look kForward{'F', "#4e79a7", "forward"}, kBackward{'B', "#59a14f", "backward"},
    kInput{'I', "#76b7b2", "input gradients"}, kWeight{'W', "#edc948", "weight gradients"},
    kPair{'X', "#b07aa1", "overlapped pair"}, kReduce{'r', "#e15759", "gradients reduced"},
    kOptimizer{'o', "#9c755f", "optimizer"}, kGather{'g', "#f28e2b", "parameters gathered"};
constexpr Look kLooks[] = {kForward, kBackward, kInput,     kWeight,
                           kPair,    kReduce,   kOptimizer, kGather};

Look LookOf(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward:
      return kForward;
    case ActionKind::kBackward:
      return kBackward;
    case ActionKind::kBackwardInput:
      return kInput;
    case ActionKind::kBackwardWeight:
      return kWeight;
    case ActionKind::kOverlap:
      return kPair;
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      break;
  }
  return {'.', "#ffffff", "message"};  // are not timed, so have no span
}

struct Drawn {
  Look look;
  std::string name;
  double start = 0, finish = 0, exposed_comm = 0;
};

// All that a pipeline rank of a group does in a step; tails begin when the slowest group is done.
std::vector<Drawn> DrawnOf(const Timeline& timeline, int group, int rank) {
  std::vector<Drawn> all;
  for (const ActionSpan& span : timeline.spans[group * timeline.pipe + rank]) {
    all.push_back({LookOf(span.action.kind), ToText(span.action), span.start, span.finish,
                   span.exposed_comm});
  }
  if (timeline.tails.empty()) return all;
  const TailCost& tail = timeline.tails[rank];
  double at = timeline.pipeline_seconds;
  for (const auto& [look, seconds] :
       {std::pair(kReduce, tail.reduce_gradients), std::pair(kOptimizer, tail.optimizer),
        std::pair(kGather, tail.gather_parameters)}) {
    if (seconds > 0) all.push_back({look, look.meaning, at, at + seconds});
    at += seconds;
  }
  return all;
}

// Of those of a group's ranks.
std::vector<Look> UsedLooks(const Timeline& timeline, int group) {
  std::set<char> letters;
  for (int rank = 0; rank < timeline.pipe; ++rank) {
    for (const Drawn& drawn : DrawnOf(timeline, group, rank)) letters.insert(drawn.look.letter);
  }
  std::vector<Look> used;
  for (const Look& look : kLooks) {
    if (letters.count(look.letter) > 0) used.push_back(look);
  }
  return used;
}

// "" if there is one only.
std::string NameOfGroup(const Timeline& timeline, int group) {
  if (timeline.groups == 1) return "";
  return absl::StrCat("group ", group, " of ", timeline.groups, ", which ends last");
}

}  // namespace

std::string DrawGantt(const Timeline& timeline, int width) {
  const int group = timeline.slowest_group();
  std::string text = NameOfGroup(timeline, group);
  if (!text.empty()) text += "\n";
  const double column = timeline.step_seconds / width;
  for (int rank = 0; rank < timeline.pipe; ++rank) {
    // Seconds of each letter in each column; what is left of it is idle.
    std::vector<std::map<char, double>> columns(width);
    for (const Drawn& drawn : DrawnOf(timeline, group, rank)) {
      const int first = std::clamp(static_cast<int>(drawn.start / column), 0, width - 1);
      const int last = std::clamp(static_cast<int>(drawn.finish / column), 0, width - 1);
      for (int c = first; c <= last; ++c) {
        const double from = std::max(drawn.start, c * column);
        const double to = std::min(drawn.finish, (c + 1) * column);
        columns[c][drawn.look.letter] += std::max(0.0, to - from);
      }
    }
    std::string line(width, '.');
    for (int c = 0; c < width; ++c) {
      double busy = 0, most = 0;
      for (const auto& [letter, seconds] : columns[c]) {
        busy += seconds;
        if (seconds <= most) continue;
        most = seconds;
        line[c] = letter;
      }
      if (busy < column / 2) line[c] = '.';
    }
    absl::StrAppendFormat(&text, "%4d |%s|\n", rank, line);
  }
  text += "     ";
  for (const Look& look : UsedLooks(timeline, group))
    absl::StrAppend(&text, " ", std::string(1, look.letter), " ", look.meaning, ",");
  return text + " . idle\n";
}

std::string ToChromeTrace(const Timeline& timeline) {
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (int group = 0; group < timeline.groups; ++group) {
    absl::StrAppendFormat(&text,
                          "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":"
                          "\"group %d\"}}",
                          group, group);
    for (int rank = 0; rank < timeline.pipe; ++rank) {
      for (const Drawn& drawn : DrawnOf(timeline, group, rank)) {
        absl::StrAppendFormat(&text,
                              ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"ts\":%.3f,"
                              "\"dur\":%.3f,\"args\":{\"exposed_comm_us\":%.3f}}",
                              group, rank, drawn.name, drawn.start * 1e6,
                              (drawn.finish - drawn.start) * 1e6, drawn.exposed_comm * 1e6);
      }
    }
    if (group + 1 < timeline.groups) text += ",\n";
  }
  return text + "\n]}\n";
}

std::string ToSvg(const Timeline& timeline) {
  constexpr double kWidth = 1600, kRow = 22, kLeft = 40, kLegend = 150;
  const double scale = timeline.step_seconds > 0 ? kWidth / timeline.step_seconds : 0;
  const int group = timeline.slowest_group();
  std::string text = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"monospace\" font-size=\"10\">\n<rect width=\"100%%\" height=\"100%%\" "
      "fill=\"#f4f4f4\"/>\n",
      kLeft + kWidth + 10, timeline.pipe * kRow + 50);
  const auto box = [&](double left, double top, double width, const Look& look) {
    absl::StrAppendFormat(&text,
                          "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" "
                          "fill=\"%s\" stroke=\"#333\" stroke-width=\"0.3\"",
                          left, top, width, kRow - 4, look.color);
  };
  for (int rank = 0; rank < timeline.pipe; ++rank) {
    const double top = rank * kRow + 4;
    absl::StrAppendFormat(&text, "<text x=\"4\" y=\"%.1f\">%d</text>\n", top + 13, rank);
    for (const Drawn& drawn : DrawnOf(timeline, group, rank)) {
      const double seconds = drawn.finish - drawn.start;
      box(kLeft + drawn.start * scale, top, seconds * scale, drawn.look);
      absl::StrAppendFormat(&text, "><title>%s %.3f ms</title></rect>\n", drawn.name,
                            seconds * 1e3);
    }
  }
  const double bottom = timeline.pipe * kRow + 8;
  double left = kLeft;
  for (const Look& look : UsedLooks(timeline, group)) {
    box(left, bottom, kRow - 4, look);
    absl::StrAppendFormat(&text, "/>\n<text x=\"%.0f\" y=\"%.1f\">%s</text>\n", left + kRow,
                          bottom + 13, look.meaning);
    left += kLegend;
  }
  const std::string name = NameOfGroup(timeline, group);
  absl::StrAppendFormat(&text, "<text x=\"%.0f\" y=\"%.0f\">0 to %.3f ms%s%s</text>\n</svg>\n",
                        kLeft, bottom + 34, timeline.step_seconds * 1e3, name.empty() ? "" : "; ",
                        name);
  return text;
}

}  // namespace sluice::parallel
