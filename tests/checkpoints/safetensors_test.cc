#include "checkpoints/safetensors.h"

#include "checkpoints/memory_file_system.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

using kernels::DType;

// A file of the given header and data, whatever sense they make.
std::string FileOf(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header +
         std::string(data_bytes, 'd');
}

absl::Status OpenBytes(const std::string& bytes) {
  MemoryFileSystem files;
  EXPECT_TRUE(files.CreateFile("/x").ok());
  files.Overwrite("/x", bytes);
  const absl::Status status = SafetensorsReader::Open(files, "/x").status();
  if (!status.ok()) {
    EXPECT_EQ(status.message().rfind("safetensors file /x: ", 0), 0u) << status;
  }
  return status;
}

TEST(Safetensors, GiveBackWhatWasWritten) {
  MemoryFileSystem files;
  const TestState state = MakeState(1);
  std::vector<SafetensorsEntry> entries;
  std::string data;
  for (const TestTensor& tensor : state) {
    entries.push_back({tensor.whole.tensor, tensor.whole.dtype, tensor.whole.global_shape});
    data.append(tensor.bytes.begin(), tensor.bytes.end());
  }
  auto writer = SafetensorsWriter::Create(files, "/x", entries, {{"format", "pt"}, {"b", "\"\n"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t i = 0; i < data.size(); i += 100) {
    ASSERT_OK((*writer)->Append(data.data() + i,
                                static_cast<int64_t>(std::min<size_t>(100, data.size() - i))));
  }
  EXPECT_TRUE(absl::IsNotFound(files.OpenFile("/x").status()));  // not before it is whole
  ASSERT_OK((*writer)->Finish());

  auto reader = SafetensorsReader::Open(files, "/x");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().size(), state.size());
  EXPECT_EQ((*reader)->metadata().at("b"), "\"\n");
  EXPECT_EQ((*reader)->metadata().at("format"), "pt");
  for (const TestTensor& tensor : state) {
    for (int i = 0; i < 3; ++i) {
      const TensorPiece part = Part(tensor.whole, i, 3);
      std::vector<char> out(static_cast<size_t>(part.bytes()), 'x');
      ASSERT_OK((*reader)->Read(part, out.data()));
      const size_t offset = static_cast<size_t>(part.begin) * kernels::SizeOf(part.dtype);
      EXPECT_TRUE(std::equal(out.begin(), out.end(), tensor.bytes.begin() + offset))
          << tensor.whole.tensor;
    }
  }
}

TEST(Safetensors, AreWrittenByteForByteAsTheFormatSays) {
  MemoryFileSystem files;
  const std::vector<float> w = {1, 2, 3};
  ASSERT_OK(WriteSafetensors(files, "/x", {{"w", DType::kF32, {3, 1}}}, {w.data()}));
  const std::string header =
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[3,1],\"data_offsets\":[0,12]}}       ";
  EXPECT_EQ(header.size() % 8, 0u);
  const uint64_t length = header.size();
  EXPECT_EQ(files.Contents("/x"), std::string(reinterpret_cast<const char*>(&length), 8) + header +
                                      std::string(reinterpret_cast<const char*>(w.data()), 12));
  // Again: replaces the file.
  ASSERT_OK(WriteSafetensors(files, "/x", {}, {}));
  EXPECT_EQ(files.Contents("/x"), std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  EXPECT_EQ(files.Files(), std::vector<std::string>{"/x"});
}

TEST(Safetensors, ReadHeadersOfOtherWriters) {
  // Spaces, another order of keys and of tensors, empty tensors, scalars, unicode names.
  EXPECT_TRUE(OpenBytes(FileOf("{ \"b\": {\"data_offsets\": [4, 8], \"shape\": [], "
                               "\"dtype\": \"F32\"}, \"\\u00e9\" : {\"dtype\":\"I32\","
                               "\"shape\":[1],\"data_offsets\":[0,4]}, \"z\": {\"dtype\":\"U8\","
                               "\"shape\":[0,7],\"data_offsets\":[4,4]}}   ",
                               8))
                  .ok());
  EXPECT_TRUE(OpenBytes(FileOf("{}", 0)).ok());
  EXPECT_TRUE(OpenBytes(FileOf("{\"__metadata__\":{}}", 0)).ok());
}

struct BadHeader {
  const char* what;
  std::string header;
  size_t data_bytes;
  const char* message;  // a part of it
};

TEST(Safetensors, RefuseBadHeadersByName) {
  const std::string w = "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}";
  const auto entry = [](const std::string& dtype, const std::string& shape,
                        const std::string& offsets) {
    return "{\"w\":{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
           "}}";
  };
  const std::vector<BadHeader> cases = {
      {"empty", "", 0, "no JSON object"},
      {"leading space", " {}", 0, "no JSON object"},
      {"array", "[]", 0, "no JSON object"},
      {"cut off", "{\"w\":", 0, "no JSON object"},
      {"trailing text", "{}x", 0, "no JSON object"},
      {"not UTF-8", "{\"\xff\":" + w + "}", 8, "no JSON object"},
      {"entry is no object", "{\"w\":1}", 0, "\"w\": its entry is not"},
      {"missing key", "{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "\"w\": its entry is not"},
      {"spare key", "{\"w\":{\"a\":1,\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
       "\"w\": its entry is not"},
      {"dtype is no text", entry("1", "[2]", "[0,8]"), 8, "\"w\": its entry is not"},
      {"shape is no list", entry("\"F32\"", "2", "[0,8]"), 8, "\"w\": its shape is not"},
      {"negative extent", entry("\"F32\"", "[-2]", "[0,8]"), 8, "\"w\": its shape is not"},
      {"fractional extent", entry("\"F32\"", "[2.0]", "[0,8]"), 8, "\"w\": its shape is not"},
      {"huge extent", entry("\"F32\"", "[18446744073709551615]", "[0,8]"), 8, "\"w\": its shape"},
      {"huge product", entry("\"F32\"", "[4294967296,4294967296,4]", "[0,0]"), 0,
       "\"w\": too many elements"},
      {"one offset", entry("\"F32\"", "[2]", "[0]"), 8, "\"w\": its data_offsets are not"},
      {"three offsets", entry("\"F32\"", "[2]", "[0,8,8]"), 8, "\"w\": its data_offsets are not"},
      {"reversed", entry("\"F32\"", "[2]", "[8,0]"), 8, "\"w\": its data_offsets are not"},
      {"outside", entry("\"F32\"", "[2]", "[4,12]"), 8, "\"w\": its data ends at byte 12"},
      {"far outside", entry("\"F32\"", "[2]", "[0,4611686018427387903]"), 8,
       "\"w\": its data ends"},
      {"too few bytes", entry("\"F32\"", "[2]", "[0,4]"), 4, "span 4 bytes"},
      {"too many bytes", entry("\"BF16\"", "[2]", "[0,8]"), 8, "need 4"},
      {"hole at the start", entry("\"F32\"", "[2]", "[4,12]"), 12, "hole"},
      {"bytes at the end", entry("\"F32\"", "[2]", "[0,8]"), 9, "1 bytes after the last tensor"},
      {"overlap", "{\"v\":" + w + ",\"w\":" + w + "}", 8,
       "\"w\": its data starts at byte 0 inside"},
      {"hole", "{\"v\":" + w + ",\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]}}",
       10, "\"w\": its data starts at byte 9 with a hole"},
      {"twice", "{\"w\":" + w + ",\"w\":" + w + "}", 8, "has \"w\" twice"},
      {"key twice",
       "{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],"
       "\"data_offsets\":[0,8]}}",
       8, "has \"dtype\" twice"},
      {"too deep", entry("\"F32\"", "[[2]]", "[0,8]"), 8, "nests too deeply"},
      {"very deep", std::string(1 << 20, '['), 0, "no JSON object"},
      {"very deep inside", "{\"w\":" + std::string(1 << 20, '[') + std::string(1 << 20, ']') + "}",
       0, "nests too deeply"},
      {"metadata is no object", "{\"__metadata__\":1}", 0, "__metadata__ is no object"},
      {"metadata is no text", "{\"__metadata__\":{\"a\":1}}", 0, "\"a\" is no text"},
  };
  for (const BadHeader& bad : cases) {
    const absl::Status status = OpenBytes(FileOf(bad.header, bad.data_bytes));
    EXPECT_TRUE(absl::IsDataLoss(status)) << bad.what << ": " << status;
    EXPECT_NE(status.message().find(bad.message), std::string::npos) << bad.what << ": " << status;
  }
  const absl::Status status = OpenBytes(FileOf(entry("\"F16\"", "[2]", "[0,4]"), 4));
  EXPECT_TRUE(absl::IsUnimplemented(status));
  EXPECT_NE(status.message().find("\"w\": element type \"F16\""), std::string::npos) << status;
}

TEST(Safetensors, RefuseHeaderLengthsThatLie) {
  EXPECT_TRUE(absl::IsDataLoss(OpenBytes("")));
  EXPECT_TRUE(absl::IsDataLoss(OpenBytes("1234567")));
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'001}, ~uint64_t{0}}) {
    const absl::Status status =
        OpenBytes(std::string(reinterpret_cast<const char*>(&length), 8) + "{}");
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find(absl::StrCat("claims ", length, " bytes")), std::string::npos);
  }
}

// No byte of a header makes the reader crash, or read outside of the file.
TEST(Safetensors, SurviveEveryChangedHeaderByte) {
  MemoryFileSystem files;
  const std::vector<float> w(5);
  ASSERT_OK(WriteSafetensors(files, "/x", {{"v", DType::kF32, {3}}, {"w", DType::kF32, {2}}},
                             {w.data(), w.data()}));
  const std::string good = files.Contents("/x");
  for (size_t i = 0; i < good.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string bad = good;
      bad[i] = static_cast<char>(value);
      files.Overwrite("/x", bad);
      const auto reader = SafetensorsReader::Open(files, "/x");
      if (!reader.ok()) continue;
      for (const SafetensorsEntry& entry : (*reader)->tensors()) {
        std::vector<char> out(static_cast<size_t>(entry.bytes));
        ASSERT_OK((*reader)->Read(WholeTensor(entry.name, entry.dtype, entry.shape), out.data()));
      }
    }
  }
}

TEST(Safetensors, RefuseBadNamesWhenWriting) {
  MemoryFileSystem files;
  const auto create = [&](std::vector<SafetensorsEntry> entries) {
    return SafetensorsWriter::Create(files, "/x", std::move(entries)).status();
  };
  const SafetensorsEntry w{"w", DType::kF32, {2}};
  EXPECT_TRUE(absl::IsInvalidArgument(create({w, w})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({{"", DType::kF32, {2}}})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({{"__metadata__", DType::kF32, {2}}})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({{"\xff", DType::kF32, {2}}})));
  EXPECT_TRUE(absl::IsInvalidArgument(create({{"w", DType::kF32, {-2}}})));
  const auto writer = SafetensorsWriter::Create(files, "/x", {w});
  ASSERT_OK((*writer)->Append("1234", 4));
  const absl::Status status = (*writer)->Finish();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::IsNotFound(files.OpenFile("/x").status()));
}

TEST(Safetensors, ReadRefusesOtherNamesTypesAndShapes) {
  MemoryFileSystem files;
  const std::vector<float> w(6);
  ASSERT_OK(WriteSafetensors(files, "/x", {{"w", DType::kF32, {2, 3}}}, {w.data()}));
  const auto reader = SafetensorsReader::Open(files, "/x");
  std::vector<float> out(6);
  EXPECT_TRUE(absl::IsNotFound((*reader)->Read(WholeTensor("v", DType::kF32, {2, 3}), out.data())));
  EXPECT_TRUE(
      absl::IsInvalidArgument((*reader)->Read(WholeTensor("w", DType::kI32, {2, 3}), out.data())));
  EXPECT_TRUE(
      absl::IsInvalidArgument((*reader)->Read(WholeTensor("w", DType::kF32, {6}), out.data())));
}

}  // namespace
}  // namespace sluice::checkpoints
