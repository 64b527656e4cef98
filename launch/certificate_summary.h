// What `sluice import` and `sluice export` print at the end.
#pragma once

#include <string>

#include "checkpoints/huggingface/certificate.h"

namespace sluice::launch {

// Three lines, or with `json` one object; `path` is what was made.
std::string CertificateSummary(const std::string& path, const checkpoints::Certificate& certificate,
                               bool json);

}  // namespace sluice::launch
