// Imports: what is kept, what is refused and how.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoints/huggingface/fp8_blocks.h"
#include "checkpoints/huggingface/import.h"
#include "checkpoints/huggingface/weight_reader.h"
#include "checkpoints/memory_file_system.h"
#include "checkpoints/reader.h"
#include "checkpoints/safetensors.h"
#include "kernels/core/check.h"
#include "kernels/core/crc32c.h"
#include "tests/checkpoints/huggingface_directory.h"

namespace sluice::checkpoints {
namespace {

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

// --no-mtp: what is left out need not make sense.
TEST(HuggingFaceImport, WhatIsLeftOutMayBeFp8WithoutScales) {
  MemoryFileSystem files;
  Tensors source = Source();
  source["model.layers.61.a.weight"] = MakeTensor(DType::kE4M3, kMatrix, 8);
  source["model.layers.61.b.weight"] = MakeTensor(DType::kE4M3, kVector, 9);
  WriteSource(files, source);
  MakeRun(files);
  ImportOptions options = Options();
  options.leave_out = {"model.layers.61."};
  const auto imported = Import(files, options);
  ASSERT_TRUE(imported.ok()) << imported.status();
  int left_out = 0;
  for (const CertifiedTensor& tensor : imported->certificate.tensors) {
    if (tensor.fate != "left out") continue;
    ++left_out;
    EXPECT_EQ(tensor.checkpoint, "");
    EXPECT_TRUE(absl::StartsWith(tensor.disk, "model.layers.61.")) << tensor.disk;
  }
  EXPECT_EQ(left_out, 2);
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
  EXPECT_THAT(with_index("\"model-00002-of-00002.safetensors\"",
                         std::string(200000, '[') + std::string(200000, ']')),
              HasSubstr("nests too deeply"));
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

}  // namespace
}  // namespace sluice::checkpoints
