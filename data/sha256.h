// SHA-256 (FIPS 180-4), to name a tokenizer by its bytes; the same digits as `sha256sum`.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace sluice::data {

std::string Sha256Hex(absl::string_view bytes);  // 64 lower-case hex digits

}  // namespace sluice::data
