// A small model directory in memory: two files, every element type, a gate bias and a copy.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoints/huggingface/import.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/memory_file_system.h"
#include "checkpoints/safetensors.h"
#include "kernels/core/dtype.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {

using kernels::DType;

struct Tensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, Tensor>;

// Values without a pattern that survives a mixed-up index; exponents from 2^-6 to 2^1.
inline float ValueAt(int64_t i) {
  const uint32_t hash = static_cast<uint32_t>(i + 1) * 2654435761u;
  const float magnitude =
      std::ldexp(1.0f + static_cast<float>(hash >> 9) * 0x1p-23f, static_cast<int>(hash % 7) - 6);
  return hash & 0x100 ? -magnitude : magnitude;
}
inline Tensor MakeTensor(DType dtype, std::vector<int64_t> shape, int64_t salt) {
  Tensor tensor{dtype, shape, ""};
  const int64_t count = *NumElements(shape);
  for (int64_t i = 0; i < count; ++i) {
    const float value = ValueAt(salt * 100003 + i);
    const auto add = [&](const auto& x) {
      tensor.bytes.append(reinterpret_cast<const char*>(&x), sizeof x);
    };
    if (dtype == DType::kF32) add(value);
    if (dtype == DType::kBF16) add(kernels::ToBFloat16(value));
    if (dtype == DType::kE4M3) add(kernels::ToE4M3(value));
  }
  return tensor;
}

// 130 x 200 is ragged on both sides: 2 x 2 blocks.
inline const std::vector<int64_t> kMatrix = {130, 200}, kBlocks = {2, 2}, kVector = {7},
                                  kTable = {50, 6};
inline std::vector<MappedTensor> Model() {
  using Role = MappedTensor::Role;
  return {{"embed.weight", "embed.weight", kTable},
          {"a.weight", "a.weight", kMatrix, Role::kWeight, true},
          {"b.w1.weight", "b.gate_proj.weight", kMatrix, Role::kWeight, true},
          {"norm.weight", "norm.weight", kVector},
          {"gate.e_bias", "e_bias", kVector, Role::kGateBias},
          {"mtp.embed.weight", "embed.weight", kTable, Role::kCopy}};
}
inline Tensors Source() {
  Tensors tensors = {{"embed.weight", MakeTensor(DType::kBF16, kTable, 1)},
                     {"a.weight", MakeTensor(DType::kE4M3, kMatrix, 2)},
                     {"a.weight_scale_inv", MakeTensor(DType::kF32, kBlocks, 3)},
                     {"b.w1.weight", MakeTensor(DType::kBF16, kMatrix, 4)},
                     {"norm.weight", MakeTensor(DType::kF32, kVector, 5)},
                     {"gate.e_bias", MakeTensor(DType::kF32, kVector, 6)}};
  tensors["mtp.embed.weight"] = tensors["embed.weight"];
  return tensors;
}
inline void WriteTensors(MemoryFileSystem& files, const std::string& path, const Tensors& tensors) {
  std::vector<SafetensorsEntry> entries;
  std::vector<const void*> data;
  for (const auto& [name, tensor] : tensors) {
    entries.push_back({.name = name, .dtype = tensor.dtype, .shape = tensor.shape});
    data.push_back(tensor.bytes.data());
  }
  auto writer = SafetensorsWriter::Create(files, path, entries, {{"format", "pt"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const auto& [name, tensor] : tensors)
    ASSERT_OK((*writer)->Append(tensor.bytes.data(), std::ssize(tensor.bytes)));
  ASSERT_OK((*writer)->Finish());
}

inline constexpr char kFirst[] = "/hf/model-00001-of-00002.safetensors",
                      kSecond[] = "/hf/model-00002-of-00002.safetensors",
                      kIndex[] = "/hf/model.safetensors.index.json";

// Two files: names before "e" in the first.
inline std::string WriteSource(MemoryFileSystem& files, const Tensors& tensors) {
  EXPECT_TRUE(files.MakeDirectory("/hf").ok());
  Tensors parts[2];
  std::string map;
  for (const auto& [name, tensor] : tensors) {
    const int part = name < "e" ? 0 : 1;
    parts[part][name] = tensor;
    absl::StrAppend(&map, map.empty() ? "" : ",", "\"", name, "\":\"",
                    (part == 0 ? kFirst : kSecond) + 4, "\"");
  }
  WriteTensors(files, kFirst, parts[0]);
  WriteTensors(files, kSecond, parts[1]);
  const std::string index = absl::StrCat("{\"metadata\":{},\"weight_map\":{", map, "}}");
  EXPECT_TRUE(files.CreateFile(kIndex).ok());
  files.Overwrite(kIndex, index);
  return index;
}
inline ImportOptions Options() {
  ImportOptions options;
  options.from = "/hf";
  options.to = "/run/checkpoints";
  options.tensors = Model();
  options.buffer_bytes = 1000;  // many chunks a matrix, none ends with a row
  return options;
}
inline void MakeRun(MemoryFileSystem& files, const std::string& path = "/run") {
  ASSERT_OK(files.MakeDirectory(path));
}

// What an import and an export of the same thing leave must be read the same way.
inline std::vector<float> Values(CheckpointReader& reader, const std::string& name,
                                 const std::vector<int64_t>& shape) {
  std::vector<float> values(*NumElements(shape));
  const absl::Status status = WeightReader(reader).Read(name, shape, 0, values);
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

}  // namespace sluice::checkpoints
