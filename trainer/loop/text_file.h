// Small texts beside a checkpoint: configurations, certificates, indices.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace sluice::trainer {

// The largest config.json that is read.
constexpr int64_t kMostConfigBytes = 10'000'000;

// Replaces what `path` holds. Unavailable: it cannot be written.
absl::Status WriteText(const std::filesystem::path& path, const std::string& text);

}  // namespace sluice::trainer
