// The same on the machine's own file system, in a temporary directory.
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "checkpoints/faulty_file_system.h"
#include "checkpoints/retention.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

class Posix : public testing::Test {
 protected:
  Posix() {
    std::string pattern = testing::TempDir() + "/sluice_checkpoints_XXXXXX";
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr) << pattern;
    root_ = pattern;
    dir_ = JoinPath(root_, "checkpoints");
  }
  ~Posix() override { RemoveAll(root_); }

  void RemoveAll(const std::string& path) {
    if (auto names = files_->ListDirectory(path); names.ok()) {
      for (const std::string& name : *names) RemoveAll(JoinPath(path, name));
      files_->RemoveDirectory(path).IgnoreError();
    } else {
      files_->RemoveFile(path).IgnoreError();
    }
  }

  absl::Status Cycle(FileSystem& files, int64_t step) {
    if (absl::Status s = RemoveUnfinished(files, dir_, NoLog); !s.ok()) return s;
    const auto saved = Save(files, dir_, step, absl::StrCat("a", step), {.num_pieces = 2});
    if (!saved.ok()) return saved.status();
    return ApplyRetention(files, dir_, *saved, 1, NoLog);
  }

  const std::unique_ptr<FileSystem> files_ = CreatePosixFileSystem();
  std::string root_, dir_;
};

TEST_F(Posix, SavesLoadsAndRetains) {
  for (const int64_t step : {1, 2, 3}) ASSERT_OK(Cycle(*files_, step));
  const auto newest = FindNewestGood(*files_, dir_, NoLog);
  ASSERT_TRUE(newest.ok()) << newest.status();
  EXPECT_EQ(newest->step, 3);
  EXPECT_TRUE(SameBytes(Load(*files_, newest->path, 3), MakeState(3)));
  EXPECT_EQ(files_->ListDirectory(dir_)->size(), 1u);
  EXPECT_GT(files_->FreeBytes(dir_).value(), 0);
}

TEST_F(Posix, DeathAtAnyOperationLeavesTheNewStateOrTheOldOne) {
  ASSERT_OK(Cycle(*files_, 1));
  FaultyFileSystem counting(*files_);
  ASSERT_OK(Cycle(counting, 2));
  const int64_t num_operations = counting.num_operations();
  for (int64_t i = 0; i < num_operations; i += 8) {  // crash_test tries each; real fsyncs are slow
    RemoveAll(dir_);
    ASSERT_OK(Cycle(*files_, 1));
    FaultyFileSystem dying(*files_, {FaultKind::kDieAfter, i, absl::OkStatus()});
    EXPECT_TRUE(absl::IsCancelled(Cycle(dying, 2)));
    const auto newest = FindNewestGood(*files_, dir_, NoLog);
    ASSERT_TRUE(newest.ok()) << counting.operations()[static_cast<size_t>(i)] << newest.status();
    EXPECT_TRUE(SameBytes(Load(*files_, newest->path, 1), MakeState(newest->step)));
  }
}

TEST_F(Posix, ErrorsNameOperationAndPath) {
  const std::string missing = JoinPath(root_, "missing");
  EXPECT_TRUE(absl::IsNotFound(files_->OpenFile(missing).status()));
  EXPECT_TRUE(absl::IsNotFound(files_->ListDirectory(missing).status()));
  EXPECT_TRUE(absl::IsNotFound(files_->FreeBytes(missing).status()));
  EXPECT_TRUE(absl::IsNotFound(files_->RemoveFile(missing)));
  EXPECT_TRUE(absl::IsNotFound(files_->Rename(missing, missing + "2")));
  EXPECT_TRUE(absl::IsNotFound(files_->SyncDirectory(missing)));
  ASSERT_OK(files_->MakeDirectory(dir_));
  EXPECT_TRUE(absl::IsAlreadyExists(files_->MakeDirectory(dir_)));
  const std::string path = JoinPath(dir_, "x");
  ASSERT_TRUE(files_->CreateFile(path).ok());
  const absl::Status again = files_->CreateFile(path).status();
  EXPECT_TRUE(absl::IsAlreadyExists(again)) << again;
  EXPECT_NE(again.message().find("create " + path), std::string::npos) << again;
  EXPECT_FALSE(files_->RemoveDirectory(dir_).ok());
}

TEST_F(Posix, AFileLimitIsAnErrorThatNamesTheFile) {
  // A write beyond RLIMIT_FSIZE fails with EFBIG: the one write error a test can have everywhere.
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 200;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = Cycle(*files_, 1);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("write " + dir_), std::string::npos) << status;
  EXPECT_TRUE(absl::IsNotFound(FindNewestGood(*files_, dir_, NoLog).status()));
}

TEST(Path, JoinsAndSplits) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(ParentPath("a/b"), "a");
  EXPECT_EQ(ParentPath("a/b/"), "a");
  EXPECT_EQ(ParentPath("/b"), "/");
  EXPECT_EQ(ParentPath("/"), "/");
  EXPECT_EQ(ParentPath("b"), ".");
  EXPECT_EQ(ParentPath("."), ".");
}

}  // namespace
}  // namespace sluice::checkpoints
