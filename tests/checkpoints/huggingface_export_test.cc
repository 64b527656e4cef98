// Exports: bytes that come back, FP8 blocks, files, the certificate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoints/huggingface/export.h"
#include "checkpoints/huggingface/fp8_blocks.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/memory_file_system.h"
#include "checkpoints/reader.h"
#include "checkpoints/safetensors.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "tests/checkpoints/huggingface_directory.h"

namespace sluice::checkpoints {
namespace {

class HuggingFaceExport : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteSource(files_, Source());
    MakeRun(files_);
    const auto imported = Import(files_, Options());
    ASSERT_TRUE(imported.ok()) << imported.status();
    source_ = *CheckpointReader::Open(files_, imported->generation);
    ASSERT_OK(files_.MakeDirectory("/out"));
  }

  // A run's checkpoint: masters of all weights, those of `changed` not the source's.
  std::unique_ptr<CheckpointReader> Trained(const std::set<std::string>& changed) {
    EXPECT_TRUE(files_.MakeDirectory("/tuned").ok());
    auto writer = CheckpointWriter::Begin(files_, "/tuned/checkpoints", 5, "a1", 0, {});
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const MappedTensor& tensor : Model()) {
      if (tensor.role == MappedTensor::Role::kCopy) continue;
      std::vector<float> values;
      if (tensor.role == MappedTensor::Role::kGateBias) {
        values.resize(7, 0.25f);
      } else {
        values = Values(*source_, tensor.name, tensor.shape);
      }
      if (changed.contains(tensor.name)) {
        for (int64_t i = 0; i < std::ssize(values); ++i) values[i] += 0.3f * ValueAt(i + 77);
        trained_[tensor.name] = values;
      }
      const bool is_bias = tensor.role == MappedTensor::Role::kGateBias;
      EXPECT_TRUE((*writer)
                      ->Add(WholeTensor((is_bias ? "gate/" : "master/") + tensor.name, DType::kF32,
                                        tensor.shape),
                            values.data())
                      .ok());
    }
    const auto receipt = (*writer)->Finish();
    const auto path = Commit(files_, "/tuned/checkpoints", 5, "a1",
                             std::span<const ShardReceipt>(&*receipt, 1), {});
    EXPECT_TRUE(path.ok()) << path.status();
    return *CheckpointReader::Open(files_, *path);
  }

  absl::StatusOr<Exported> Run(CheckpointReader* from, CheckpointReader* source,
                               ExportType type = ExportType::kSource) {
    ExportOptions options;
    options.from = from;
    options.source = source;
    options.to = "/out";
    options.tensors = Model();
    options.type = type;
    options.shard_bytes = 60000;
    return Export(files_, options);
  }

  Tensors Written(const Exported& exported) {
    Tensors tensors;
    for (const FileLayout& file : exported.files) {
      auto reader = SafetensorsReader::Open(files_, "/out/" + file.name);
      EXPECT_TRUE(reader.ok()) << reader.status();
      for (const SafetensorsEntry& entry : (*reader)->tensors()) {
        Tensor tensor{entry.dtype, entry.shape, std::string(entry.bytes, 'x')};
        EXPECT_TRUE(
            (*reader)
                ->Read(WholeTensor(entry.name, entry.dtype, entry.shape), tensor.bytes.data())
                .ok());
        EXPECT_TRUE(tensors.emplace(entry.name, tensor).second) << entry.name;
      }
    }
    return tensors;
  }

  static const CertifiedTensor& Certified(const Exported& exported, const std::string& name) {
    for (const CertifiedTensor& tensor : exported.certificate.tensors) {
      if (tensor.disk == name) return tensor;
    }
    CHECK(false) << name;
    return exported.certificate.tensors[0];
  }

  MemoryFileSystem files_;
  std::unique_ptr<CheckpointReader> source_;
  std::map<std::string, std::vector<float>> trained_;
};

TEST_F(HuggingFaceExport, AnImportComesBackAsTheSameFiles) {
  const auto exported = Run(source_.get(), nullptr);
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_TRUE(exported->is_source_layout);
  EXPECT_TRUE(exported->is_fp8);
  EXPECT_EQ(exported->files.size(), 2u);
  for (const char* path : {kFirst, kSecond}) {
    EXPECT_TRUE(files_.Contents(absl::StrCat("/out", path + 3)) == files_.Contents(path)) << path;
  }
  EXPECT_EQ(exported->certificate.MaxError(), 0);
}

TEST_F(HuggingFaceExport, WhatTrainingLeftAloneKeepsTheSourcesBytes) {
  const auto trained = Trained({"b.gate_proj.weight"});
  const auto exported = Run(trained.get(), source_.get());
  ASSERT_TRUE(exported.ok()) << exported.status();
  const Tensors written = Written(*exported);
  for (const auto& [name, tensor] : Source()) {
    const Tensor& now = written.at(name);
    EXPECT_EQ(now.dtype, tensor.dtype) << name;
    const bool is_changed = name == "b.w1.weight" || name == "gate.e_bias";
    EXPECT_EQ(now.bytes == tensor.bytes, !is_changed) << name;
  }
  EXPECT_EQ(Certified(*exported, "a.weight").fate, "source bytes");
  // Without the source the codes are made anew; with it, and a change, too.
  const auto alone = Run(trained.get(), nullptr, ExportType::kFp8);
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ(Certified(*alone, "a.weight").fate, "quantised");
}

// x is a multiple of half a step of E4M3 off at most: 2^-4 of |x|, or for values that become
// subnormal codes half of 2^-9 of the scale.
TEST_F(HuggingFaceExport, TrainedWeightsBecomeDeepSeeksBlocks) {
  const auto trained = Trained({"a.weight", "b.gate_proj.weight"});
  const auto exported = Run(trained.get(), source_.get(), ExportType::kFp8);
  ASSERT_TRUE(exported.ok()) << exported.status();
  const Tensors written = Written(*exported);
  EXPECT_EQ(written.at("embed.weight").dtype, DType::kBF16);
  EXPECT_EQ(written.at("norm.weight").dtype, DType::kBF16);
  EXPECT_EQ(written.at("gate.e_bias").dtype, DType::kF32);
  EXPECT_TRUE(written.at("mtp.embed.weight").bytes == written.at("embed.weight").bytes);
  for (const auto& [disk, name] : {std::pair<const char*, const char*>{"a.weight", "a.weight"},
                                   {"b.w1.weight", "b.gate_proj.weight"}}) {
    const std::vector<float>& values = trained_.at(name);
    const Tensor& codes = written.at(disk);
    const Tensor& scales = written.at(absl::StrCat(disk, "_scale_inv"));
    ASSERT_EQ(codes.dtype, DType::kE4M3);
    ASSERT_EQ(scales.shape, kBlocks);
    const auto* scale = reinterpret_cast<const float*>(scales.bytes.data());
    float largest[4] = {};
    double error = 0;
    for (int64_t i = 0; i < std::ssize(values); ++i) {
      const int64_t block = i / 200 / 128 * 2 + i % 200 / 128;
      largest[block] = std::max(largest[block], std::fabs(values[i]));
      const float back =
          kernels::ToFloat(kernels::E4M3{static_cast<uint8_t>(codes.bytes[i])}) * scale[block];
      error = std::max(error, std::fabs(static_cast<double>(values[i]) - back));
      const double bound = std::max(0x1p-4 * std::fabs(values[i]), 0x1p-10 * scale[block]);
      ASSERT_LE(std::fabs(values[i] - back), bound * (1 + 0x1p-20)) << i;
    }
    for (int block = 0; block < 4; ++block) EXPECT_EQ(scale[block], largest[block] / 448.0f);
    EXPECT_EQ(Certified(*exported, disk).max_error, error);
    EXPECT_GT(error, 0);
  }
}

TEST_F(HuggingFaceExport, FilesAreCutWhereTheyWouldPassTheLimit) {
  const auto trained = Trained({"a.weight"});
  const auto exported = Run(trained.get(), nullptr, ExportType::kBf16);
  ASSERT_TRUE(exported.ok()) << exported.status();
  // 52600 + ..., 52014 + ...: a matrix of BF16 has 52000 bytes.
  ASSERT_EQ(exported->files.size(), 2u);
  EXPECT_EQ(exported->files[0].name, "model-00001-of-00002.safetensors");
  EXPECT_EQ(Written(*exported).size(), 6u);
  const std::string index = IndexText(exported->files);
  EXPECT_TRUE(absl::StrContains(index, "\"norm.weight\": \"model-00002-of-00002.safetensors\""));
}

TEST_F(HuggingFaceExport, NamesATensorThatIsNotFinite) {
  const auto trained = Trained({});
  std::vector<float> values(7, 1.0f);
  values[5] = std::numeric_limits<float>::quiet_NaN();
  auto writer = CheckpointWriter::Begin(files_, "/tuned/checkpoints", 6, "a2", 0, {});
  ASSERT_TRUE(writer.ok());
  ASSERT_OK((*writer)->Add(WholeTensor("master/norm.weight", DType::kF32, kVector), values.data()));
  const auto receipt = (*writer)->Finish();
  const auto path = Commit(files_, "/tuned/checkpoints", 6, "a2",
                           std::span<const ShardReceipt>(&*receipt, 1), {});
  ASSERT_TRUE(path.ok());
  auto reader = *CheckpointReader::Open(files_, *path);
  ExportOptions options;
  options.from = reader.get();
  options.to = "/out";
  options.tensors = {{"norm.weight", "norm.weight", kVector}};
  const auto bad = Export(files_, options);
  EXPECT_TRUE(
      absl::StrContains(bad.status().message(), "master/norm.weight: found nan at element 5"))
      << bad.status();
  options.tensors.push_back({"a.weight", "a.weight", kMatrix});
  EXPECT_EQ(Export(files_, options).status().code(), absl::StatusCode::kNotFound);
}

TEST(Fp8Blocks, AZeroBlockHasScaleOne) {
  const std::vector<float> zeros(3 * 130, 0.0f);
  float scales[2] = {};
  ScalesOfBand(zeros, 130, scales);
  EXPECT_EQ(scales[0], 1.0f);
  EXPECT_EQ(scales[1], 1.0f);
  std::vector<uint8_t> codes(zeros.size(), 9);
  EncodeBand(zeros, 130, scales, codes.data());
  EXPECT_EQ(codes, std::vector<uint8_t>(zeros.size(), 0));
}

}  // namespace
}  // namespace sluice::checkpoints
