// What is wrong on disk is found, named, and passed over.
#include <functional>

#include "checkpoints/manifest.h"
#include "checkpoints/memory_file_system.h"
#include "kernels/core/crc32c.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

constexpr char kDir[] = "/checkpoints";
constexpr char kOld[] = "/checkpoints/step-0000000001-a";
constexpr char kNew[] = "/checkpoints/step-0000000002-b";

class Damage : public testing::Test {
 protected:
  Damage() {
    EXPECT_TRUE(Save(files_, kDir, 1, "a", {.num_pieces = 3}).ok());
    EXPECT_TRUE(Save(files_, kDir, 2, "b", {.num_pieces = 3}).ok());
    files_.SyncAll();
  }

  std::vector<std::string> NewFiles() const {
    std::vector<std::string> paths;
    for (const std::string& path : files_.Files()) {
      if (path.rfind(kNew, 0) == 0) paths.push_back(path);
    }
    return paths;
  }

  // The new generation does not verify, saying so about `path`; the old one is found, and the log
  // says why.
  void ExpectFallsBack(const std::string& path) {
    const absl::Status verified = Verify(files_, kNew);
    EXPECT_TRUE(absl::IsDataLoss(verified)) << verified;
    EXPECT_NE(verified.message().find(path), std::string::npos) << verified;
    std::string log;
    const auto newest = FindNewestGood(
        files_, kDir, [&](absl::string_view message) { absl::StrAppend(&log, message, "\n"); });
    ASSERT_TRUE(newest.ok()) << newest.status();
    EXPECT_EQ(newest->path, kOld);
    EXPECT_NE(log.find(absl::StrCat("checkpoint ", kNew, " is passed over: ")), std::string::npos)
        << log;
  }

  MemoryFileSystem files_;
};

TEST_F(Damage, OfAnyByteOfAnyFileIsFound) {
  int64_t num_cases = 0;
  for (const std::string& path : NewFiles()) {
    const std::string good = files_.Contents(path);
    for (size_t i = 0; i < good.size(); ++i) {
      for (const int flip : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ flip);
        files_.Overwrite(path, bad);
        ExpectFallsBack(path);
        ++num_cases;
        if (HasFailure()) FAIL() << path << " byte " << i;
      }
    }
    files_.Overwrite(path, good);
  }
  ASSERT_OK(Verify(files_, kNew));
  RecordProperty("cases", static_cast<int>(num_cases));
  EXPECT_GT(num_cases, 10000);
}

TEST_F(Damage, ByAnyTruncationOrAppendedOrZeroedTailIsFound) {
  for (const std::string& path : NewFiles()) {
    const std::string good = files_.Contents(path);
    for (size_t size = 0; size < good.size(); ++size) {
      files_.Overwrite(path, good.substr(0, size));
      ExpectFallsBack(path);
      // (The last byte of a file may be zero already.)
      std::string zeroed = good.substr(0, size) + std::string(good.size() - size, '\0');
      if (zeroed != good) {
        files_.Overwrite(path, zeroed);
        ExpectFallsBack(path);
      }
      if (HasFailure()) FAIL() << path << " cut to " << size;
    }
    files_.Overwrite(path, good + '\0');
    ExpectFallsBack(path);
    files_.Overwrite(path, good);
  }
}

TEST_F(Damage, ByFilesThatAreMissingSwappedOrOfAnotherGenerationIsFound) {
  const std::string zero = absl::StrCat(kNew, "/rank-00000.shard");
  const std::string one = absl::StrCat(kNew, "/rank-00001.shard");
  const std::string zero_bytes = files_.Contents(zero), one_bytes = files_.Contents(one);
  files_.Overwrite(zero, one_bytes);
  files_.Overwrite(one, zero_bytes);
  ExpectFallsBack(zero);
  files_.Overwrite(one, one_bytes);
  const std::string other = files_.Contents(absl::StrCat(kOld, "/rank-00000.shard"));
  ASSERT_EQ(other.size(), zero_bytes.size());
  files_.Overwrite(zero, other);
  ExpectFallsBack(zero);
  ASSERT_OK(files_.RemoveFile(zero));
  ExpectFallsBack(zero);
}

TEST_F(Damage, ByTheManifestOfAnotherGenerationIsFound) {
  const std::string path = absl::StrCat(kNew, "/MANIFEST");
  files_.Overwrite(path, files_.Contents(absl::StrCat(kOld, "/MANIFEST")));
  ExpectFallsBack(path);
}

TEST_F(Damage, MessageNamesFileTensorElementsAndChecksums) {
  const std::string path = absl::StrCat(kNew, "/rank-00000.shard");
  std::string bytes = files_.Contents(path);
  bytes[70] = static_cast<char>(bytes[70] ^ 4);
  files_.Overwrite(path, bytes);
  const std::string message(Verify(files_, kNew).message());
  // Byte 70 is in the second piece of the file: weights/embed is bf16 [13, 7], cut in three pieces
  // of 30, 30 and 31 elements, of which this writer has the first and the third.
  EXPECT_NE(message.find(absl::StrCat(path,
                                      ": bytes [60, 122) are damaged: tensor weights/embed, "
                                      "elements [60, 91), have CRC32C 0x")),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("written was 0x"), std::string::npos) << message;
}

TEST_F(Damage, IsNoticedOnlyByReadsThatTouchIt) {
  const std::string path = absl::StrCat(kNew, "/rank-00000.shard");
  std::string bytes = files_.Contents(path);
  bytes[70] = static_cast<char>(bytes[70] ^ 4);
  files_.Overwrite(path, bytes);
  auto reader = CheckpointReader::Open(files_, kNew);
  ASSERT_TRUE(reader.ok());
  TensorPiece piece = MakeState(2)[0].whole;
  std::vector<char> out(static_cast<size_t>(piece.bytes()));
  EXPECT_TRUE(absl::IsDataLoss((*reader)->Read(piece, out.data())));
  piece.begin = 90;  // the rest of the damaged chunk
  EXPECT_TRUE(absl::IsDataLoss((*reader)->Read(piece, out.data())));
  EXPECT_TRUE(absl::IsDataLoss((*reader)->Read(piece, out.data())));  // and again
  piece.begin = 0;
  piece.end = 60;
  EXPECT_TRUE((*reader)->Read(piece, out.data()).ok());

  // Parts of chunks: what a failed read left in the buffer is not taken for the chunk before.
  const TensorPiece good = {"weights/embed", kernels::DType::kBF16, {13, 7}, 3, 20};
  const TensorPiece bad = {"weights/embed", kernels::DType::kBF16, {13, 7}, 63, 80};
  std::vector<char> first(34), second(34);
  ASSERT_OK((*reader)->Read(good, first.data()));
  EXPECT_TRUE(absl::IsDataLoss((*reader)->Read(bad, out.data())));
  ASSERT_OK((*reader)->Read(good, second.data()));
  EXPECT_EQ(first, second);
}

TEST_F(Damage, OfEverythingIsNotTakenForAFreshStart) {
  for (const std::string& path : files_.Files()) files_.Overwrite(path, "");
  const auto newest = FindNewestGood(files_, kDir, NoLog);
  EXPECT_TRUE(absl::IsDataLoss(newest.status())) << newest.status();
  MemoryFileSystem empty;
  ASSERT_OK(empty.MakeDirectory(kDir));
  EXPECT_TRUE(absl::IsNotFound(FindNewestGood(empty, kDir, NoLog).status()));
  EXPECT_TRUE(absl::IsNotFound(FindNewestGood(empty, "/nowhere", NoLog).status()));
}

// Manifests with a right checksum and wrong contents: of a bug, or of somebody with an editor.
class ForgedManifest : public Damage {
 protected:
  absl::Status OpenWith(const std::function<void(Manifest&)>& forge) {
    Manifest manifest = *ReadManifest(files_, kOld);
    manifest.set_step(2);
    manifest.set_attempt("b");
    forge(manifest);
    files_.Overwrite(absl::StrCat(kNew, "/MANIFEST"), EncodeManifest(manifest));
    const absl::Status status = CheckpointReader::Open(files_, kNew).status();
    const absl::Status verified = Verify(files_, kNew);
    EXPECT_EQ(status.code(), verified.code());
    return status;
  }
  static PieceRecord& FirstPiece(Manifest& m) { return *m.mutable_tensors(0)->mutable_pieces(0); }
};

TEST_F(ForgedManifest, IsRefused) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  const std::vector<std::pair<const char*, std::function<void(Manifest&)>>> cases = {
      {"negative step", [](Manifest& m) { m.set_step(-1); }},
      {"another step", [](Manifest& m) { m.set_step(3); }},
      {"attempt with a slash", [](Manifest& m) { m.set_attempt("../b"); }},
      {"file in another directory", [](Manifest& m) { m.mutable_files(0)->set_name("../x"); }},
      {"file named ..", [](Manifest& m) { m.mutable_files(0)->set_name(".."); }},
      {"file without name", [](Manifest& m) { m.mutable_files(0)->clear_name(); }},
      {"file that is the manifest", [](Manifest& m) { m.mutable_files(0)->set_name("MANIFEST"); }},
      {"file twice", [](Manifest& m) { m.mutable_files(1)->set_name(m.files(0).name()); }},
      {"negative size", [](Manifest& m) { m.mutable_files(0)->set_bytes(-1); }},
      {"bytes nobody owns", [](Manifest& m) { m.mutable_files(0)->set_bytes(10000); }},
      {"no chunk size", [](Manifest& m) { m.mutable_files(0)->set_chunk_bytes(0); }},
      {"odd chunk size", [](Manifest& m) { m.mutable_files(0)->set_chunk_bytes(12); }},
      {"other chunk size", [](Manifest& m) { m.mutable_files(0)->set_chunk_bytes(8); }},
      {"huge chunk size", [](Manifest& m) { m.mutable_files(0)->set_chunk_bytes(kHuge); }},
      {"tensor without name", [](Manifest& m) { m.mutable_tensors(0)->clear_name(); }},
      {"tensor twice", [](Manifest& m) { m.mutable_tensors(1)->set_name(m.tensors(0).name()); }},
      {"unknown dtype", [](Manifest& m) { m.mutable_tensors(0)->set_dtype("f8"); }},
      {"wider dtype", [](Manifest& m) { m.mutable_tensors(0)->set_dtype("f64"); }},
      {"negative extent", [](Manifest& m) { m.mutable_tensors(0)->set_shape(0, -13); }},
      {"other extent", [](Manifest& m) { m.mutable_tensors(0)->set_shape(0, 14); }},
      {"huge extents", [](Manifest& m) { m.mutable_tensors(0)->set_shape(0, kHuge); }},
      {"huge product",
       [](Manifest& m) {
         for (int i = 0; i < 5; ++i) m.mutable_tensors(0)->add_shape(int64_t{1} << 32);
       }},
      {"gap", [](Manifest& m) { FirstPiece(m).set_begin(FirstPiece(m).begin() + 1); }},
      {"overlap", [](Manifest& m) { FirstPiece(m).set_end(FirstPiece(m).end() + 1); }},
      {"negative begin", [](Manifest& m) { FirstPiece(m).set_begin(-1); }},
      {"empty piece", [](Manifest& m) { FirstPiece(m).set_end(FirstPiece(m).begin()); }},
      {"end before begin", [](Manifest& m) { FirstPiece(m).set_end(-kHuge); }},
      {"missing piece", [](Manifest& m) { m.mutable_tensors(0)->mutable_pieces()->RemoveLast(); }},
      {"pieces in another order",
       [](Manifest& m) { m.mutable_tensors(0)->mutable_pieces()->SwapElements(0, 1); }},
      {"file number too large", [](Manifest& m) { FirstPiece(m).set_file(2); }},
      {"negative file number", [](Manifest& m) { FirstPiece(m).set_file(-1); }},
      {"negative offset", [](Manifest& m) { FirstPiece(m).set_offset(-8); }},
      {"offset past the end", [](Manifest& m) { FirstPiece(m).set_offset(1 << 20); }},
      {"huge offset", [](Manifest& m) { FirstPiece(m).set_offset(INT64_MAX); }},
      {"bytes used twice", [](Manifest& m) { FirstPiece(m).set_offset(8); }},
      {"missing checksum", [](Manifest& m) { FirstPiece(m).clear_chunk_crc32c(); }},
      {"spare checksum", [](Manifest& m) { FirstPiece(m).add_chunk_crc32c(1); }},
  };
  for (const auto& [what, forge] : cases) {
    SCOPED_TRACE(what);
    const absl::Status status = OpenWith(forge);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  }
}

TEST_F(ForgedManifest, WithAnotherChecksumOfAFileDoesNotVerify) {
  const std::string path = absl::StrCat(kNew, "/MANIFEST");
  Manifest manifest = *ReadManifest(files_, kNew);
  manifest.mutable_files(0)->set_crc32c(1);
  files_.Overwrite(path, EncodeManifest(manifest));
  EXPECT_TRUE(CheckpointReader::Open(files_, kNew).ok());
  EXPECT_TRUE(absl::IsDataLoss(Verify(files_, kNew)));
}

TEST_F(ForgedManifest, OfANewerProgramIsRefusedAndNotTakenForDamage) {
  const absl::Status feature = OpenWith([](Manifest& m) { m.add_required_features("sparse"); });
  EXPECT_TRUE(absl::IsFailedPrecondition(feature)) << feature;
  EXPECT_NE(feature.message().find("\"sparse\""), std::string::npos) << feature;
  const absl::Status version = OpenWith([](Manifest& m) { m.set_format_version(2); });
  EXPECT_TRUE(absl::IsFailedPrecondition(version)) << version;
  EXPECT_TRUE(absl::IsFailedPrecondition(FindNewestGood(files_, kDir, NoLog).status()));
}

}  // namespace
}  // namespace sluice::checkpoints
