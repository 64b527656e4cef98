// A model directory in memory, imported and exported: bytes, refusals, the certificate.
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
#include "checkpoints/huggingface/import.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/memory_file_system.h"
#include "checkpoints/reader.h"
#include "checkpoints/safetensors.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

struct Tensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, Tensor>;

// Values without a pattern that survives a mixed-up index; exponents from 2^-6 to 2^1.
float ValueAt(int64_t i) {
  const uint32_t hash = static_cast<uint32_t>(i + 1) * 2654435761u;
  const float magnitude =
      std::ldexp(1.0f + static_cast<float>(hash >> 9) * 0x1p-23f, static_cast<int>(hash % 7) - 6);
  return hash & 0x100 ? -magnitude : magnitude;
}

Tensor MakeTensor(DType dtype, std::vector<int64_t> shape, int64_t salt) {
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
const std::vector<int64_t> kMatrix = {130, 200}, kBlocks = {2, 2}, kVector = {7}, kTable = {50, 6};

std::vector<MappedTensor> Model() {
  using Role = MappedTensor::Role;
  return {{"embed.weight", "embed.weight", kTable},
          {"a.weight", "a.weight", kMatrix, Role::kWeight, true},
          {"b.w1.weight", "b.gate_proj.weight", kMatrix, Role::kWeight, true},
          {"norm.weight", "norm.weight", kVector},
          {"gate.e_bias", "e_bias", kVector, Role::kGateBias},
          {"mtp.embed.weight", "embed.weight", kTable, Role::kCopy}};
}

Tensors Source() {
  Tensors tensors = {{"embed.weight", MakeTensor(DType::kBF16, kTable, 1)},
                     {"a.weight", MakeTensor(DType::kE4M3, kMatrix, 2)},
                     {"a.weight_scale_inv", MakeTensor(DType::kF32, kBlocks, 3)},
                     {"b.w1.weight", MakeTensor(DType::kBF16, kMatrix, 4)},
                     {"norm.weight", MakeTensor(DType::kF32, kVector, 5)},
                     {"gate.e_bias", MakeTensor(DType::kF32, kVector, 6)}};
  tensors["mtp.embed.weight"] = tensors["embed.weight"];
  return tensors;
}

void WriteTensors(MemoryFileSystem& files, const std::string& path, const Tensors& tensors) {
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

constexpr char kFirst[] = "/hf/model-00001-of-00002.safetensors",
               kSecond[] = "/hf/model-00002-of-00002.safetensors",
               kIndex[] = "/hf/model.safetensors.index.json";

// Two files: names before "e" in the first.
std::string WriteSource(MemoryFileSystem& files, const Tensors& tensors) {
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

ImportOptions Options() {
  ImportOptions options;
  options.from = "/hf";
  options.to = "/run/checkpoints";
  options.tensors = Model();
  options.buffer_bytes = 1000;  // many chunks a matrix, none ends with a row
  return options;
}

void MakeRun(MemoryFileSystem& files, const std::string& path = "/run") {
  ASSERT_OK(files.MakeDirectory(path));
}

// What an import and an export of the same thing leave must be read the same way.
std::vector<float> Values(CheckpointReader& reader, const std::string& name,
                          const std::vector<int64_t>& shape) {
  std::vector<float> values(*NumElements(shape));
  const absl::Status status = WeightReader(reader).Read(name, shape, 0, values);
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

TEST(HuggingFaceImport, KeepsEveryTensorInItsTypeAndAccountsForIt) {
  MemoryFileSystem files;
  const Tensors source = Source();
  WriteSource(files, source);
  MakeRun(files);
  ImportOptions options = Options();
  int64_t last = 0, total = 0;
  options.progress = [&](int64_t done, int64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  };
  const auto imported = Import(files, options);
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(last, total);
  ASSERT_OK(Verify(files, imported->generation));
  auto reader = CheckpointReader::Open(files, imported->generation);
  ASSERT_TRUE(reader.ok()) << reader.status();

  std::set<std::string> seen, stored;
  for (const CertifiedTensor& tensor : imported->certificate.tensors) {
    EXPECT_TRUE(seen.insert(tensor.disk).second) << tensor.disk;
    const Tensor& wanted = source.at(tensor.disk);
    EXPECT_EQ(tensor.crc32c, Crc32c(wanted.bytes.data(), wanted.bytes.size())) << tensor.disk;
    EXPECT_EQ(tensor.dtype, SafetensorsNameOf(wanted.dtype));
    if (tensor.disk == "mtp.embed.weight") {
      EXPECT_EQ(tensor.fate, "copy of embed.weight");
      EXPECT_EQ(tensor.checkpoint, "");
      continue;
    }
    EXPECT_TRUE(stored.insert(tensor.checkpoint).second);
    std::string bytes(wanted.bytes.size(), 'x');
    ASSERT_OK(
        (*reader)->Read(WholeTensor(tensor.checkpoint, wanted.dtype, wanted.shape), bytes.data()));
    EXPECT_TRUE(bytes == wanted.bytes) << tensor.disk;
  }
  EXPECT_EQ(seen.size(), source.size());
  EXPECT_EQ(stored.size(), static_cast<size_t>((*reader)->tensors().size()));
  EXPECT_EQ(imported->certificate.parameters, 300 + 2 * 26000 + 7 + 7);

  // FP8: code * scale, in FP32; the certificate has what that rounds away.
  const std::vector<float> a = Values(**reader, "a.weight", kMatrix);
  const auto* codes = reinterpret_cast<const uint8_t*>(source.at("a.weight").bytes.data());
  const auto* scales = reinterpret_cast<const float*>(source.at("a.weight_scale_inv").bytes.data());
  double error = 0;
  for (int64_t i = 0; i < std::ssize(a); ++i) {
    const double exact = static_cast<double>(kernels::ToFloat(kernels::E4M3{codes[i]})) *
                         scales[i / 200 / 128 * 2 + i % 200 / 128];
    ASSERT_EQ(a[i], static_cast<float>(exact)) << i;
    error = std::max(error, std::fabs(a[i] - exact));
  }
  EXPECT_GT(error, 0);
  EXPECT_EQ(imported->certificate.MaxError(), error);
  // Any part of it, cut anywhere.
  WeightReader weights(**reader);
  for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 1}, {127, 2}, {199, 2}, {25599, 201}, {12345, 6789}, {25999, 1}, {5, 0}}) {
    std::vector<float> part(count);
    ASSERT_OK(weights.Read("a.weight", kMatrix, begin, part));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), a.begin() + begin)) << begin;
  }
  const std::vector<float> b = Values(**reader, "b.gate_proj.weight", kMatrix);
  EXPECT_EQ(b[777], kernels::ToFloat(kernels::ToBFloat16(ValueAt(4 * 100003 + 777))));
}

struct Bad {
  const char* what;
  std::function<void(Tensors&)> change;
  std::vector<std::string> message;
};

TEST(HuggingFaceImport, RefusesByNameBeforeAnythingIsWritten) {
  const auto poke = [](const char* name, auto value, int64_t at) {
    return [=](Tensors& t) {
      std::memcpy(t[name].bytes.data() + at * static_cast<int64_t>(sizeof value), &value,
                  sizeof value);
    };
  };
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  const std::vector<Bad> cases = {
      {"missing", [](Tensors& t) { t.erase("norm.weight"); }, {"norm.weight is missing"}},
      {"more",
       [](Tensors& t) { t["extra.weight"] = t["norm.weight"]; },
       {"tensor extra.weight in model-00002-of-00002.safetensors is none of this model's"}},
      {"renamed",
       [](Tensors& t) {
         t["norms.weight"] = t["norm.weight"];
         t.erase("norm.weight");
       },
       {"norm.weight is missing", "norms.weight"}},
      {"shape",
       [](Tensors& t) {
         t["a.weight"].shape = {200, 130};
       },
       {"tensor a.weight: found shape [200, 130], wanted [130, 200]"}},
      {"type",
       [](Tensors& t) { t["norm.weight"].dtype = DType::kI32; },
       {"tensor norm.weight: found element type I32, wanted F32 or BF16"}},
      {"FP8 where no matrix is",
       [](Tensors& t) { t["embed.weight"] = MakeTensor(DType::kE4M3, kTable, 1); },
       {"embed.weight", "F8_E4M3"}},
      {"no scales",
       [](Tensors& t) { t.erase("a.weight_scale_inv"); },
       {"tensor a.weight: found FP8 without scales, wanted a.weight_scale_inv"}},
      {"scales without the ragged blocks",
       [](Tensors& t) {
         t["a.weight_scale_inv"] = MakeTensor(DType::kF32, {1, 1}, 3);
       },
       {"a.weight_scale_inv", "[1, 1]", "[2, 2]"}},
      {"scales of what is not FP8",
       [](Tensors& t) { t["b.w1.weight_scale_inv"] = t["a.weight_scale_inv"]; },
       {"b.w1.weight_scale_inv"}},
      {"NaN", poke("norm.weight", nan, 3), {"norm.weight", "not finite at element 3"}},
      {"infinity", poke("gate.e_bias", infinity, 6), {"gate.e_bias", "element 6"}},
      {"NaN in BF16, far in",
       poke("b.w1.weight", uint16_t{0x7fc0}, 25999),
       {"b.w1.weight", "element 25999"}},
      {"NaN in FP8", poke("a.weight", uint8_t{0xff}, 1234), {"a.weight:", "element 1234"}},
      {"NaN scale", poke("a.weight_scale_inv", nan, 2), {"a.weight_scale_inv", "element 2"}},
      {"a copy that is none",
       poke("mtp.embed.weight", uint16_t{0x3f80}, 299),
       {"mtp.embed.weight", "element 299", "embed.weight, whose copy it is"}},
  };
  for (const Bad& bad : cases) {
    MemoryFileSystem files;
    Tensors tensors = Source();
    bad.change(tensors);
    WriteSource(files, tensors);
    MakeRun(files);
    const auto imported = Import(files, Options());
    ASSERT_FALSE(imported.ok()) << bad.what;
    EXPECT_EQ(imported.status().code(), absl::StatusCode::kInvalidArgument) << bad.what;
    for (const std::string& part : bad.message) {
      EXPECT_TRUE(absl::StrContains(imported.status().message(), part))
          << bad.what << ": " << imported.status();
    }
    EXPECT_TRUE(absl::IsNotFound(files.ListDirectory("/run/checkpoints").status())) << bad.what;
  }
}

TEST(HuggingFaceImport, RefusesFilesThatLie) {
  const auto message = [](const std::function<void(MemoryFileSystem&, std::string index)>& change) {
    MemoryFileSystem files;
    const std::string index = WriteSource(files, Source());
    EXPECT_TRUE(files.MakeDirectory("/run").ok());
    change(files, index);
    const absl::Status status = Import(files, Options()).status();
    EXPECT_FALSE(status.ok());
    EXPECT_TRUE(absl::IsNotFound(files.ListDirectory("/run/checkpoints").status()));
    return std::string(status.message());
  };
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    CHECK(at != std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const auto with_index = [&](const std::string& from, const std::string& to) {
    return message([&](MemoryFileSystem& files, const std::string& index) {
      files.Overwrite(kIndex, replaced(index, from, to));
    });
  };
  using ::testing::HasSubstr;
  const std::string leaves =
      with_index("\"model-00002-of-00002.safetensors\"", "\"../model.safetensors\"");
  EXPECT_THAT(leaves, HasSubstr("\"../model.safetensors\", wanted the name of a file in the same"));
  EXPECT_THAT(with_index("\"embed.weight\":", "\"a.weight\":"),
              HasSubstr("tensor a.weight is there twice"));
  EXPECT_THAT(with_index("\"norm.weight\":\"model-00002", "\"norm.weight\":\"model-00001"),
              HasSubstr("tensor norm.weight is not in model-00001-of-00002.safetensors"));
  EXPECT_THAT(with_index("\"norm.weight\":", "\"other.weight\":"), HasSubstr("other.weight"));
  EXPECT_THAT(
      message([&](MemoryFileSystem& files, const std::string&) { files.Overwrite(kIndex, "[1]"); }),
      HasSubstr("weight_map"));
  EXPECT_THAT(message([&](MemoryFileSystem& files, const std::string&) {
                Tensors both = {{"embed.weight", Source()["embed.weight"]}};
                for (const auto& [name, tensor] : Source())
                  if (name < "e") both[name] = tensor;
                WriteTensors(files, kFirst, both);
              }),
              HasSubstr("tensor embed.weight is in two files"));
  // Headers: SafetensorsReader says it, with the file's name.
  const auto with_header = [&](const std::string& from, const std::string& to) {
    return message([&](MemoryFileSystem& files, const std::string&) {
      files.Overwrite(kSecond, replaced(files.Contents(kSecond), from, to));
    });
  };
  EXPECT_THAT(with_header("[0,600]", "[0,699]"), HasSubstr("embed.weight"));
  EXPECT_THAT(with_header("[600,628]", "[572,600]"), HasSubstr("inside another tensor's"));
  EXPECT_THAT(message([&](MemoryFileSystem& files, const std::string&) {
                std::string bytes = files.Contents(kSecond);
                bytes.resize(bytes.size() - 1);
                files.Overwrite(kSecond, bytes);
              }),
              HasSubstr("the file has only"));
  EXPECT_THAT(message([&](MemoryFileSystem& files, const std::string&) {
                std::string bytes = files.Contents(kSecond);
                bytes[6] = 0x7f;
                files.Overwrite(kSecond, bytes);
              }),
              HasSubstr("its header claims"));
}

TEST(HuggingFaceImport, ASourceThatChangesInBetweenLeavesNothing) {
  MemoryFileSystem files;
  Tensors source = Source();
  WriteSource(files, source);
  MakeRun(files);
  ImportOptions options = Options();
  options.before_writing = [&] {
    std::string bytes = files.Contents(kSecond);
    bytes.back() ^= 1;
    files.Overwrite(kSecond, bytes);
    return absl::OkStatus();
  };
  const auto imported = Import(files, options);
  EXPECT_EQ(imported.status().code(), absl::StatusCode::kDataLoss) << imported.status();
  EXPECT_TRUE(absl::StrContains(imported.status().message(), "changed")) << imported.status();
  const auto generations = ListGenerations(files, "/run/checkpoints");
  ASSERT_TRUE(generations.ok());
  for (const Generation& generation : *generations) EXPECT_FALSE(generation.is_committed);
}

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
