// A golden case of tests/golden/huggingface, unpacked: a Hugging Face directory and what the
// reference implementation computed from it.
#pragma once

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoints/safetensors.h"
#include "tests/data/data_test_util.h"
#include "tests/support/source_path.h"
#include "trainer/loop/huggingface.h"

namespace sluice::trainer {

// All tensors of a safetensors file, F32 and I32 as FP32 values.
inline std::map<std::string, std::vector<float>> ReadAll(const std::string& path) {
  const auto files = checkpoints::CreatePosixFileSystem();
  const auto reader = checkpoints::SafetensorsReader::Open(*files, path);
  std::map<std::string, std::vector<float>> tensors;
  EXPECT_TRUE(reader.ok()) << reader.status();
  if (!reader.ok()) return tensors;
  for (const checkpoints::SafetensorsEntry& entry : (*reader)->tensors()) {
    std::vector<float>& values = tensors[entry.name];
    values.resize(entry.bytes / 4);
    const auto piece = checkpoints::WholeTensor(entry.name, entry.dtype, entry.shape);
    EXPECT_TRUE((*reader)->Read(piece, values.data()).ok()) << entry.name;
    if (entry.dtype != kernels::DType::kI32) continue;
    for (float& value : values) value = static_cast<float>(std::bit_cast<int32_t>(value));
  }
  return tensors;
}

struct HuggingFaceCase {
  explicit HuggingFaceCase(const std::string& name) {
    const std::filesystem::path folder = testing::SourcePath("tests/golden/huggingface/") + name;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const bool is_packed = entry.path().extension() == ".zst";
      const std::string content = data::Slurp(entry.path().string());
      dir.Write("source/" + (is_packed ? entry.path().stem() : entry.path().filename()).string(),
                is_packed ? data::ZstdDecompress(content) : content);
    }
    std::filesystem::rename(dir.File("source/golden.safetensors"), dir.File("golden.safetensors"));
    golden = ReadAll(dir.File("golden.safetensors"));
  }

  // To the folder `run`, computing in FP32 on sequences as long as the golden ones.
  absl::StatusOr<ImportResult> Import(const std::function<void(RunConfig&)>& edit = nullptr) {
    ImportRequest request;
    request.from = source();
    request.to = run();
    request.edit = [&](RunConfig& config) {
      config.mutable_compute()->set_precision("FP32");
      config.mutable_train()->set_sequence_length(static_cast<int>(length()));
      if (edit) edit(config);
      return absl::OkStatus();
    };
    return ImportHuggingFace(request);
  }

  std::string source() const { return dir.File("source"); }
  std::string run() const { return dir.File("run"); }
  int64_t length() const { return std::ssize(golden.at("tokens")) / 2 - 1; }  // two lines
  std::vector<int32_t> Line(int64_t line) const {
    const float* tokens = golden.at("tokens").data() + line * (length() + 1);
    return std::vector<int32_t>(tokens, tokens + length() + 1);
  }

  data::TempDir dir;
  std::map<std::string, std::vector<float>> golden;
};

inline double NormOf(const std::vector<float>& x) {
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * value;
  return std::sqrt(squares);
}

inline double DifferenceNorm(const std::vector<float>& x, const std::vector<float>& y) {
  EXPECT_EQ(x.size(), y.size());
  double squares = 0;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    const double d = static_cast<double>(x[i]) - y[i];
    squares += d * d;
  }
  return std::sqrt(squares);
}

}  // namespace sluice::trainer
