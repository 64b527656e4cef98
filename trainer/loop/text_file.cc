#include "trainer/loop/text_file.h"

#include <fstream>

#include "absl/strings/str_cat.h"

namespace sluice::trainer {

absl::Status WriteText(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  return file ? absl::OkStatus()
              : absl::UnavailableError(absl::StrCat(path.string(), ": cannot be written"));
}

}  // namespace sluice::trainer
