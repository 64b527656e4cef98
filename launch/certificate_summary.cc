#include "launch/certificate_summary.h"

#include "absl/strings/str_format.h"
#include "launch/json_text.h"

namespace sluice::launch {

std::string CertificateSummary(const std::string& path, const checkpoints::Certificate& certificate,
                               bool json) {
  if (!json) {
    return absl::StrFormat("%s\n%d tensors, %d parameters, %d bytes, largest error %.3g\nhash %s",
                           path, certificate.tensors.size(), certificate.parameters,
                           certificate.bytes, certificate.MaxError(), certificate.Hash());
  }
  const Json object = {{"path", path},
                       {"tensors", certificate.tensors.size()},
                       {"parameters", certificate.parameters},
                       {"bytes", certificate.bytes},
                       {"max_error", certificate.MaxError()},
                       {"hash", certificate.Hash()}};
  return JsonText(object);
}

}  // namespace sluice::launch
