#include "launch/bundled_text.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "launch/machine.h"

namespace sluice::launch {
namespace {

constexpr char kHeldOut[] = "persuasion.txt";  // data/samples/README.md says so too

}  // namespace

absl::Status UseBundledText(trainer::RunConfig& config) {
  if (!config.data().bundled_sample()) return absl::OkStatus();
  data::DataConfig& data = *config.mutable_data();
  if (data.train_size() > 0) {
    data.set_bundled_sample(false);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string dir, SampleTextDir());
  std::vector<std::string> novels;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    if (entry.path().extension() == ".txt") novels.push_back(entry.path().filename().string());
  }
  std::sort(novels.begin(), novels.end());
  const bool needs_validation = data.validation_size() == 0;
  for (const std::string& novel : novels) {
    const std::string path = absl::StrCat(dir, "/", novel);
    if (novel != kHeldOut) {
      data.add_train()->set_path(path);
    } else if (needs_validation) {
      data.add_validation()->set_path(path);
    }
  }
  if (data.train_size() > 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("the bundled sample text is missing: no .txt in ", dir));
}

}  // namespace sluice::launch
