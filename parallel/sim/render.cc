#include "parallel/sim/render.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sluice::parallel {
namespace {

struct Look {
  char letter;
  const char* color;
};

Look LookOf(ActionKind kind) {
  switch (kind) {
    case ActionKind::kForward:
      return {'F', "#4e79a7"};
    case ActionKind::kBackward:
      return {'B', "#59a14f"};
    case ActionKind::kBackwardInput:
      return {'I', "#76b7b2"};
    case ActionKind::kBackwardWeight:
      return {'W', "#edc948"};
    case ActionKind::kOverlap:
      return {'X', "#b07aa1"};
    case ActionKind::kSendActivation:
    case ActionKind::kReceiveActivation:
    case ActionKind::kSendGradient:
    case ActionKind::kReceiveGradient:
      break;
  }
  return {'.', "#ffffff"};
}

}  // namespace

std::string DrawGantt(const Timeline& timeline, int width) {
  std::string text;
  const double column = timeline.pipeline_seconds / width;
  for (int rank = 0; rank < timeline.pipe; ++rank) {
    // Seconds of each letter in each column; what is left of it is idle.
    std::vector<std::map<char, double>> columns(width);
    for (const ActionSpan& span : timeline.spans[rank]) {
      const int first = std::clamp(static_cast<int>(span.start / column), 0, width - 1);
      const int last = std::clamp(static_cast<int>(span.finish / column), 0, width - 1);
      for (int c = first; c <= last; ++c) {
        const double from = std::max(span.start, c * column);
        const double to = std::min(span.finish, (c + 1) * column);
        columns[c][LookOf(span.action.kind).letter] += std::max(0.0, to - from);
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
  return text;
}

std::string ToChromeTrace(const Timeline& timeline) {
  std::string text = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (int group = 0; group < timeline.groups; ++group) {
    absl::StrAppendFormat(&text,
                          "{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\",\"args\":{\"name\":"
                          "\"group %d\"}}",
                          group, group);
    for (int rank = 0; rank < timeline.pipe; ++rank) {
      for (const ActionSpan& span : timeline.spans[group * timeline.pipe + rank]) {
        absl::StrAppendFormat(&text,
                              ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"ts\":%.3f,"
                              "\"dur\":%.3f,\"args\":{\"exposed_comm_us\":%.3f}}",
                              group, rank, ToText(span.action), span.start * 1e6,
                              (span.finish - span.start) * 1e6, span.exposed_comm * 1e6);
      }
    }
    if (group + 1 < timeline.groups) text += ",\n";
  }
  return text + "\n]}\n";
}

std::string ToSvg(const Timeline& timeline) {
  constexpr double kWidth = 1600, kRow = 22, kLeft = 40;
  const double scale = timeline.pipeline_seconds > 0 ? kWidth / timeline.pipeline_seconds : 0;
  std::string text = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"monospace\" font-size=\"10\">\n<rect width=\"100%%\" height=\"100%%\" "
      "fill=\"#f4f4f4\"/>\n",
      kLeft + kWidth + 10, timeline.pipe * kRow + 30);
  for (int rank = 0; rank < timeline.pipe; ++rank) {
    const double top = rank * kRow + 4;
    absl::StrAppendFormat(&text, "<text x=\"4\" y=\"%.1f\">%d</text>\n", top + 13, rank);
    for (const ActionSpan& span : timeline.spans[rank]) {
      const double width = (span.finish - span.start) * scale;
      absl::StrAppendFormat(&text,
                            "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" "
                            "fill=\"%s\" stroke=\"#333\" stroke-width=\"0.3\"><title>%s %.3f ms"
                            "</title></rect>\n",
                            kLeft + span.start * scale, top, width, kRow - 4,
                            LookOf(span.action.kind).color, ToText(span.action),
                            (span.finish - span.start) * 1e3);
    }
  }
  absl::StrAppendFormat(&text,
                        "<text x=\"%.0f\" y=\"%.0f\">0 to %.3f ms; F blue, B green, I teal, W "
                        "yellow, overlapped violet</text>\n</svg>\n",
                        kLeft, timeline.pipe * kRow + 20, timeline.pipeline_seconds * 1e3);
  return text;
}

}  // namespace sluice::parallel
