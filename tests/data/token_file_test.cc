#include "data/token_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <iterator>

#include "data_test_util.h"

namespace sluice::data {
namespace {

using Code = absl::StatusCode;
constexpr int64_t kHeader = 256, kChunk = 256 << 10;

TEST(TokenFile, KeepsTokensDocumentsAndInfo) {
  const TempDir dir;
  const std::string hash(64, 'a');
  const std::string path = WriteTokens(dir.File("t"), {5, 0, 1, 13},
                                       {.vocab_size = 1000, .eos_id = 7, .tokenizer_hash = hash});
  auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->info().vocab_size, 1000);
  EXPECT_EQ((*file)->info().eos_id, 7);
  EXPECT_EQ((*file)->info().tokenizer_hash, hash);
  EXPECT_EQ((*file)->num_tokens(), 19);
  EXPECT_EQ((*file)->num_documents(), 4);
  EXPECT_EQ((*file)->text_bytes(), 3 * 19);
  std::vector<int32_t> tokens(19);
  ASSERT_TRUE((*file)->Read(0, tokens).ok());
  for (int i = 0; i < 19; ++i) EXPECT_EQ(tokens[i], i * 7 % 1000);
  const std::vector<std::pair<int64_t, int64_t>> ranges = {{0, 5}, {5, 5}, {5, 6}, {6, 19}};
  for (int d = 0; d < 4; ++d) EXPECT_EQ(*(*file)->DocumentRange(d), ranges[d]);
}

TEST(TokenFile, DocumentStartsOfAnyRange) {
  const TempDir dir;
  // With documents of no tokens at both ends and in a row.
  const std::vector<int> lengths = {0, 3, 1, 0, 0, 4, 2, 0};
  auto file = TokenFile::Open(WriteTokens(dir.File("t"), lengths));
  ASSERT_TRUE(file.ok());
  const std::vector<int64_t> all = {0, 3, 4, 8};
  for (int64_t begin = 0; begin <= 10; ++begin) {
    for (int64_t end = begin; end <= 10; ++end) {
      std::vector<int64_t> found, wanted;
      for (const int64_t start : all)
        if (start >= begin && start < end) wanted.push_back(start);
      ASSERT_TRUE((*file)->DocumentStarts(begin, end, &found).ok());
      EXPECT_EQ(found, wanted) << begin << " to " << end;
    }
  }
}

TEST(TokenFile, IdsTake16BitsUpTo65536Tokens) {
  const TempDir dir;
  for (const int vocab : {65536, 65537}) {
    const std::string path = dir.File(absl::StrCat("v", vocab));
    auto writer = TokenFileWriter::Create(path, {.vocab_size = vocab});
    ASSERT_TRUE(writer.ok());
    const std::vector<int32_t> tokens = {0, 65535, vocab - 1};
    ASSERT_TRUE((*writer)->AddDocument(tokens, 0).ok());
    ASSERT_TRUE((*writer)->Finish().ok());
    auto file = TokenFile::Open(path);
    ASSERT_TRUE(file.ok());
    EXPECT_EQ((*file)->bytes_per_token(), vocab == 65536 ? 2 : 4);
    std::vector<int32_t> read(3);
    ASSERT_TRUE((*file)->Read(0, read).ok());
    EXPECT_EQ(read, tokens);
  }
}

TEST(TokenFile, WithoutTokensIsAFileToo) {
  const TempDir dir;
  auto file = TokenFile::Open(WriteTokens(dir.File("t"), {}));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->num_tokens(), 0);
  EXPECT_EQ((*file)->num_chunks(), 0);
  EXPECT_TRUE((*file)->Verify().ok());
  std::vector<int64_t> starts;
  EXPECT_TRUE((*file)->DocumentStarts(0, 0, &starts).ok());
  EXPECT_TRUE(starts.empty());
}

TEST(TokenFile, ReadsAcrossChunks) {
  const TempDir dir;
  auto file = TokenFile::Open(WriteTokens(dir.File("t"), {100003, 300007}));
  ASSERT_TRUE(file.ok());
  // 400010 tokens of 2 bytes padded to 8, two document ends of 8.
  EXPECT_EQ((*file)->num_chunks(), (800024 + 16 + kChunk - 1) / kChunk);
  for (const int64_t begin : {int64_t{0}, kChunk / 2 - 3, kChunk - 1, int64_t{400010 - 9}}) {
    std::vector<int32_t> tokens(9);
    ASSERT_TRUE((*file)->Read(begin, tokens).ok());
    for (int i = 0; i < 9; ++i) EXPECT_EQ(tokens[i], (begin + i) * 7 % 1000);
  }
}

TEST(TokenFile, AFlippedByteIsFoundWhereItIsRead) {
  const TempDir dir;
  const std::string path = WriteTokens(dir.File("t"), {400000});
  FlipByte(path, kHeader + kChunk + 5);
  auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok());
  std::vector<int32_t> tokens(4);
  EXPECT_TRUE((*file)->Read(0, tokens).ok());
  ExpectStatus((*file)->Read(kChunk / 2, tokens), Code::kDataLoss, {path, "chunk 1 of 4"});
  ExpectStatus((*file)->Read(kChunk / 2, tokens), Code::kDataLoss, {path, "chunk 1 of 4"});
  ExpectStatus((*file)->Verify(), Code::kDataLoss, {path, "chunk 1 of 4"});
}

TEST(TokenFile, EveryFlippedByteIsFound) {
  const TempDir dir;
  const std::string good = Slurp(WriteTokens(dir.File("good"), {5, 6}));
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    const std::string path = dir.Write("bad", bad);
    auto file = TokenFile::Open(path);
    EXPECT_FALSE(file.ok() && (*file)->Verify().ok()) << "byte " << at;
  }
}

TEST(TokenFile, EveryTruncationIsFoundAtOpen) {
  const TempDir dir;
  const std::string good = Slurp(WriteTokens(dir.File("good"), {5, 6}));
  for (size_t size = 0; size < good.size(); ++size) {
    const std::string path = dir.Write("bad", good.substr(0, size));
    const absl::Status status = TokenFile::Open(path).status();
    if (size == 0) {
      ExpectStatus(status, Code::kInvalidArgument, {path, "not a token file"});
    } else {
      ExpectStatus(status, Code::kDataLoss, {path, "truncated", absl::StrCat(size, " bytes")});
    }
  }
  ExpectStatus(TokenFile::Open(dir.Write("bad", good + "x")).status(), Code::kDataLoss, {"grown"});
}

TEST(TokenFile, WrongMagicVersionOrNameIsSaid) {
  const TempDir dir;
  ExpectStatus(TokenFile::Open(dir.File("none")).status(), Code::kNotFound, {dir.File("none")});
  ExpectStatus(TokenFile::Open(dir.path()).status(), Code::kInvalidArgument, {dir.path()});
  ExpectStatus(TokenFile::Open(dir.Write("text", "It is a truth")).status(), Code::kInvalidArgument,
               {dir.File("text"), "It is a ", "SLUICETK"});
  std::string newer = Slurp(WriteTokens(dir.File("good"), {5}));
  newer[8] = 2;
  ExpectStatus(TokenFile::Open(dir.Write("newer", newer)).status(), Code::kInvalidArgument,
               {dir.File("newer"), "version 2", "reads 1"});
}

// The worked example of data/FORMAT.md, byte for byte.
TEST(TokenFile, WritesTheWorkedExample) {
  const TempDir dir;
  auto writer = TokenFileWriter::Create(dir.File("t"), {.vocab_size = 300, .eos_id = 0});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->AddDocument(std::vector<int32_t>{1, 2, 0}, 5).ok());
  ASSERT_TRUE((*writer)->AddDocument(std::vector<int32_t>{299, 0}, 4).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  const std::string file = Slurp(dir.File("t"));
  ASSERT_EQ(file.size(), 292u);
  EXPECT_EQ(file.substr(0, 8), "SLUICETK");
  const auto u32 = [&file](size_t at) {
    uint32_t value;
    memcpy(&value, file.data() + at, 4);
    return value;
  };
  const std::vector<std::pair<size_t, uint32_t>> fields = {{8, 1},
                                                           {12, 2},
                                                           {16, 5},
                                                           {24, 2},
                                                           {32, 9},
                                                           {40, 300},
                                                           {44, 0},
                                                           {112, 272},
                                                           {120, 288},
                                                           {128, 292},
                                                           {136, 262144},
                                                           {140, 0x410dda4fu},
                                                           {252, 0xb633eb14u},
                                                           {288, 0x704ac61au}};
  for (const auto& [at, value] : fields) EXPECT_EQ(u32(at), value) << "at " << at;
  const std::string payload(
      "\x01\0\x02\0\0\0\x2b\x01\0\0\0\0\0\0\0\0"
      "\x03\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
      32);
  EXPECT_EQ(file.substr(256, 32), payload);
}

TEST(TokenFileWriter, RefusesWhatDoesNotFit) {
  const TempDir dir;
  ExpectStatus(TokenFileWriter::Create(dir.File("t"), {.vocab_size = 0}).status(),
               Code::kInvalidArgument, {"vocab_size 0"});
  ExpectStatus(TokenFileWriter::Create(dir.File("t"), {.vocab_size = 10, .eos_id = 10}).status(),
               Code::kInvalidArgument, {"eos_id 10"});
  ExpectStatus(TokenFileWriter::Create(dir.File("no/t"), {.vocab_size = 10}).status(),
               Code::kNotFound, {dir.File("no/t")});
  auto writer = TokenFileWriter::Create(dir.File("t"), {.vocab_size = 10});
  for (const int32_t bad : {-1, 10})
    ExpectStatus((*writer)->AddDocument(std::vector<int32_t>{1, bad}, 0), Code::kInvalidArgument,
                 {absl::StrCat("token id ", bad), "10 tokens"});
}

TEST(TokenFileWriter, LeavesNothingBehindUnlessFinished) {
  const TempDir dir;
  {
    auto writer = TokenFileWriter::Create(dir.File("t"), {.vocab_size = 10});
    ASSERT_TRUE((*writer)->AddDocument(std::vector<int32_t>{1, 2}, 0).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

// Two runs that begin at once make the same file of the same text.
TEST(TokenFileWriter, TwoProcessesMayWriteOnePath) {
  const TempDir dir;
  const std::string path = dir.File("t");
  const std::vector<int32_t> tokens(300000, 7);
  int begun[2], ended[2];
  ASSERT_EQ(pipe(begun) + pipe(ended), 0);
  auto writer = TokenFileWriter::Create(path, {.vocab_size = 10});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->AddDocument(tokens, 5).ok());
  const pid_t other = fork();
  if (other == 0) {
    // Begins after the first and ends after it.
    auto second = TokenFileWriter::Create(path, {.vocab_size = 10});
    if (!second.ok() || !(*second)->AddDocument(tokens, 5).ok()) _exit(1);
    char byte = 0;
    if (write(begun[1], &byte, 1) != 1 || read(ended[0], &byte, 1) != 1) _exit(2);
    _exit((*second)->Finish().ok() ? 0 : 3);
  }
  char byte = 0;
  ASSERT_EQ(read(begun[0], &byte, 1), 1);
  EXPECT_TRUE((*writer)->Finish().ok());
  ASSERT_EQ(write(ended[1], &byte, 1), 1);
  int status = -1;
  waitpid(other, &status, 0);
  EXPECT_EQ(status, 0);
  const auto file = TokenFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<int32_t> read_back(tokens.size());
  ASSERT_TRUE((*file)->Read(0, read_back).ok());
  EXPECT_EQ(read_back, tokens);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(PublishUnlessThere, TheFirstStays) {
  const TempDir dir;
  ASSERT_TRUE(PublishUnlessThere(dir.Write("a", "first"), dir.File("t")).ok());
  ASSERT_TRUE(PublishUnlessThere(dir.Write("b", "second"), dir.File("t")).ok());
  EXPECT_EQ(Slurp(dir.File("t")), "first");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
  ExpectStatus(PublishUnlessThere(dir.Write("c", "third"), dir.File("none/t")), Code::kNotFound,
               {dir.File("none/t")});
}

// Begins a token file in another process, which waits to be killed.
pid_t BeginElsewhere(const std::string& path) {
  int begun[2];
  EXPECT_EQ(pipe(begun), 0);
  const pid_t child = fork();
  char byte = 0;
  if (child == 0) {
    const auto writer = TokenFileWriter::Create(path, {.vocab_size = 10});
    if (!writer.ok() || write(begun[1], &byte, 1) != 1) _exit(1);
    while (true) pause();
  }
  EXPECT_EQ(read(begun[0], &byte, 1), 1);
  close(begun[0]);
  close(begun[1]);
  return child;
}

void Kill(pid_t child) {
  EXPECT_EQ(kill(child, SIGKILL), 0);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

TEST(TokenFileWriter, WhatDeadProcessesBeganIsRemoved) {
  const TempDir dir;
  const std::string path = dir.File("t");
  const auto name_of = [&](pid_t process) {
    const std::string own = PartialPath(path);
    return own.substr(0, own.rfind('.') + 1) + std::to_string(process);
  };
  dir.Write("t.partial.elsewhere.1", "of another host");
  dir.Write("u.partial", "another file");
  const pid_t first = BeginElsewhere(path), second = BeginElsewhere(path);
  Kill(first);
  // A process that cannot be seen from here may have the name; then it has the lock.
  const int lock = open(name_of(first).c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(flock(lock, LOCK_EX), 0);
  ASSERT_TRUE(TokenFileWriter::Create(path, {.vocab_size = 10}).ok());
  EXPECT_TRUE(std::filesystem::exists(name_of(first)));
  EXPECT_TRUE(std::filesystem::exists(name_of(second)));
  close(lock);
  ASSERT_TRUE(TokenFileWriter::Create(path, {.vocab_size = 10}).ok());
  EXPECT_FALSE(std::filesystem::exists(name_of(first)));
  EXPECT_TRUE(std::filesystem::exists(name_of(second)));
  Kill(second);
  ASSERT_TRUE(WriteWholeFile(path, "whole").ok());
  EXPECT_FALSE(std::filesystem::exists(name_of(second)));
  EXPECT_TRUE(std::filesystem::exists(dir.File("t.partial.elsewhere.1")));
  EXPECT_TRUE(std::filesystem::exists(dir.File("u.partial")));
}

TEST(TokenFileWriter, AFullDiskIsSaid) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempDir dir;
  std::filesystem::create_symlink("/dev/full", PartialPath(dir.File("t")));
  auto writer = TokenFileWriter::Create(dir.File("t"), {.vocab_size = 10});
  ASSERT_TRUE(writer.ok());
  absl::Status status = (*writer)->AddDocument(std::vector<int32_t>(500000, 1), 0);
  if (status.ok()) status = (*writer)->Finish();
  ExpectStatus(status, Code::kResourceExhausted, {dir.File("t"), "No space left"});
}

}  // namespace
}  // namespace sluice::data
