#include "checkpoints/huggingface/certificate.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoints/digest.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace

std::string Certificate::Hash() const {
  std::vector<std::string> lines;
  for (const CertifiedTensor& t : tensors) {
    lines.push_back(
        absl::StrFormat("%s %08x %s %s\n", t.disk, t.crc32c, t.dtype, ShapeText(t.shape)));
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return DigestOfPiece(
             WholeTensor("text", kernels::DType::kU8, {static_cast<int64_t>(text.size())}),
             text.data())
      .ToString();
}

double Certificate::MaxError() const {
  double most = 0;
  for (const CertifiedTensor& tensor : tensors) most = std::max(most, tensor.max_error);
  return most;
}

std::string Certificate::ToJson() const {
  std::string text = absl::StrCat("{\"title\": ", Dump(title), ",\n\"parameters\": ", parameters,
                                  ",\n\"bytes\": ", bytes, ",\n\"hash\": \"", Hash(),
                                  "\",\n\"max_error\": ", Dump(MaxError()), ",\n\"tensors\": [\n");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const CertifiedTensor& t = tensors[i];
    const Json line = {{"disk", t.disk},
                       {"checkpoint", t.checkpoint.empty() ? Json(nullptr) : Json(t.checkpoint)},
                       {"dtype", t.dtype},
                       {"shape", t.shape},
                       {"fate", t.fate},
                       {"max_error", t.max_error},
                       {"crc32c", absl::StrFormat("%08x", t.crc32c)}};
    absl::StrAppend(&text, Dump(line), i + 1 < tensors.size() ? ",\n" : "\n");
  }
  return text + "]}\n";
}

std::string Certificate::ToText() const {
  std::map<std::string, int64_t> fates;
  size_t width = 4;
  for (const CertifiedTensor& t : tensors) {
    ++fates[t.fate.substr(0, t.fate.find(" of "))];
    width = std::max(width, t.disk.size());
  }
  std::string text =
      absl::StrFormat("%s\n%d tensors, %d parameters, %d bytes\nlargest error %.9g\nhash %s\n",
                      title, tensors.size(), parameters, bytes, MaxError(), Hash());
  for (const auto& [fate, count] : fates) absl::StrAppend(&text, "  ", count, " ", fate, "\n");
  absl::StrAppendFormat(&text, "\n%-*s  %-8s  %-12s  %-10s  %-9s  %s\n", width, "disk", "crc32c",
                        "type", "max error", "fate", "shape");
  for (const CertifiedTensor& t : tensors) {
    absl::StrAppendFormat(&text, "%-*s  %08x  %-12s  %-10.3g  %-9s  %s\n", width, t.disk, t.crc32c,
                          t.dtype, t.max_error, t.fate, ShapeText(t.shape));
  }
  return text;
}

}  // namespace sluice::checkpoints
