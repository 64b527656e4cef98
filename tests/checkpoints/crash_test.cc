// Dies, fails or stumbles at every file operation of a save and of the retention after it.
#include <functional>
#include <set>

#include "checkpoints/digest.h"
#include "checkpoints/faulty_file_system.h"
#include "checkpoints/manifest.h"
#include "checkpoints/memory_file_system.h"
#include "checkpoints/retention.h"
#include "tests/checkpoints/test_checkpoint.h"

namespace sluice::checkpoints {
namespace {

constexpr char kDir[] = "/checkpoints";

// What a run does at a checkpoint. `committed` tells whether Commit returned well.
absl::Status Cycle(FileSystem& files, int64_t step, int keep, bool* committed = nullptr) {
  if (absl::Status s = RemoveUnfinished(files, kDir, NoLog); !s.ok()) return s;
  const auto saved = Save(files, kDir, step, absl::StrCat("a", step), {.num_pieces = 3});
  if (!saved.ok()) return saved.status();
  if (committed != nullptr) *committed = true;
  return ApplyRetention(files, kDir, *saved, keep, NoLog);
}

std::unique_ptr<MemoryFileSystem> FilesAfter(int64_t num_saves, int keep,
                                             int64_t capacity = int64_t{1} << 40) {
  auto files = std::make_unique<MemoryFileSystem>(capacity);
  for (int64_t step = 1; step <= num_saves; ++step) {
    const absl::Status s = Cycle(*files, step, keep);
    EXPECT_TRUE(s.ok()) << s;
  }
  files->SyncAll();
  return files;
}

std::vector<std::string> OperationsOf(int64_t step, int keep) {
  const auto files = FilesAfter(step - 1, keep);
  FaultyFileSystem counting(*files);
  const absl::Status s = Cycle(counting, step, keep);
  EXPECT_TRUE(s.ok()) << s;
  return counting.operations();
}

// The newest good checkpoint is of `step` or, if allowed, of the one before, and holds exactly that
// state. A step of 0 means that there is none.
void ExpectWhole(FileSystem& files, int64_t step, bool or_the_one_before) {
  const auto newest = FindNewestGood(files, kDir, NoLog);
  const int64_t found = newest.ok() ? newest->step : 0;
  EXPECT_TRUE(newest.ok() || absl::IsNotFound(newest.status())) << newest.status();
  EXPECT_TRUE(found == step || (or_the_one_before && found == step - 1)) << "found " << found;
  if (newest.ok()) {
    EXPECT_TRUE(SameBytes(Load(files, newest->path, 2), MakeState(found)));
  }
}

// What is there is whole or has no manifest: neither saving nor deleting leaves damage.
void ExpectNoDamage(FileSystem& files) {
  const auto generations = ListGenerations(files, kDir);
  if (!generations.ok()) return;  // no directory yet
  for (const Generation& generation : *generations) {
    if (!generation.is_committed) continue;
    const absl::Status verified = Verify(files, generation.path);
    EXPECT_TRUE(verified.ok()) << verified;
  }
}

// The next save works, and no trace of dead attempts stays.
void ExpectNextSaveCleansUp(FileSystem& files, int64_t step, int keep) {
  ASSERT_OK(Cycle(files, step, keep));
  ExpectWhole(files, step, false);
  const auto generations = ListGenerations(files, kDir);
  ASSERT_TRUE(generations.ok());
  EXPECT_LE(generations->size(), static_cast<size_t>(keep));
  for (const Generation& generation : *generations) EXPECT_TRUE(generation.is_committed);
}

struct CrashCase {
  int64_t step;
  int keep;
};
class Crash : public testing::TestWithParam<CrashCase> {};

TEST_P(Crash, AtAnyOperationLeavesTheNewStateOrTheOldOne) {
  const auto [step, keep] = GetParam();
  const std::vector<std::string> operations = OperationsOf(step, keep);
  int64_t num_cases = 0, num_new = 0;
  for (size_t i = 0; i < operations.size(); ++i) {
    for (const FaultKind kind : {FaultKind::kDieBefore, FaultKind::kDieAfter}) {
      for (uint64_t seed = 0; seed < 6; ++seed) {
        const PowerFailure failure = seed == 0   ? PowerFailure::kKeepsAll
                                     : seed == 1 ? PowerFailure::kLosesUnsynced
                                                 : PowerFailure::kLosesSome;
        SCOPED_TRACE(absl::StrCat("operation ", i, " (", operations[i], "), fault ",
                                  static_cast<int>(kind), ", seed ", seed));
        const auto files = FilesAfter(step - 1, keep);
        bool committed = false;
        {
          FaultyFileSystem dying(*files, {kind, static_cast<int64_t>(i), absl::OkStatus()});
          EXPECT_TRUE(absl::IsCancelled(Cycle(dying, step, keep, &committed)));
        }
        files->Crash(failure, seed * 1000 + i);
        ExpectWhole(*files, step, /*or_the_one_before=*/!committed);
        ExpectNoDamage(*files);
        const auto newest = FindNewestGood(*files, kDir, NoLog);
        num_new += newest.ok() && newest->step == step;
        ExpectNextSaveCleansUp(*files, step + 1, keep);
        ++num_cases;
        if (testing::Test::HasFailure()) return;  // one is enough to read
      }
    }
  }
  RecordProperty("cases", static_cast<int>(num_cases));
  // Both outcomes must occur, else the test tests nothing.
  EXPECT_GT(num_new, num_cases / 20);
  EXPECT_LT(num_new, num_cases - num_cases / 20);
}

INSTANTIATE_TEST_SUITE_P(Cycles, Crash,
                         testing::Values(CrashCase{1, 1}, CrashCase{2, 1}, CrashCase{3, 2}));

// Whether a power failure finds `step` or, if allowed, the one before, and no damage.
bool IsCleanAfterPowerFailure(MemoryFileSystem& files, PowerFailure failure, uint64_t seed,
                              int64_t step, bool or_the_one_before) {
  files.Crash(failure, seed);
  bool is_damaged = false;
  const auto newest = FindNewestGood(files, kDir, [&](absl::string_view message) {
    is_damaged |= message.find("never finished") == absl::string_view::npos;
  });
  if (is_damaged || absl::IsDataLoss(newest.status())) return false;
  const int64_t found = newest.ok() ? newest->step : 0;
  return found == step || (or_the_one_before && found == step - 1);
}

// The teeth of the test above: without any one of its syncs, a power failure can lose a save that
// was reported as done, or leave a manifest whose files are not there.
TEST(CrashMutants, EverySyncOfASaveIsNeeded) {
  for (const int64_t step : {1, 2}) {
    const std::vector<std::string> operations = OperationsOf(step, /*keep=*/3);
    std::set<std::string> needless;
    int num_syncs = 0;
    for (size_t i = 0; i < operations.size(); ++i) {
      if (operations[i].rfind("sync ", 0) != 0) continue;
      ++num_syncs;
      const Fault skip{FaultKind::kSkip, static_cast<int64_t>(i), absl::OkStatus()};
      const auto done = FilesAfter(step - 1, 3);
      FaultyFileSystem skipping(*done, skip);
      ASSERT_OK(Cycle(skipping, step, 3));
      bool is_clean = IsCleanAfterPowerFailure(*done, PowerFailure::kLosesUnsynced, 0, step, false);
      for (uint64_t seed = 0; seed < 50; ++seed) {
        const auto files = FilesAfter(step - 1, 3);
        FaultyFileSystem skipping_one(*files, skip);
        for (size_t t = 0; t < operations.size(); ++t) {
          if (operations[t].rfind("rename ", 0) != 0) continue;
          FaultyFileSystem dying(skipping_one, {FaultKind::kDieAfter, static_cast<int64_t>(t), {}});
          EXPECT_TRUE(absl::IsCancelled(Cycle(dying, step, 3)));
        }
        is_clean = is_clean && IsCleanAfterPowerFailure(*files, PowerFailure::kLosesSome,
                                                        1000 * seed, step, true);
      }
      if (is_clean) needless.insert(operations[i]);
    }
    EXPECT_EQ(num_syncs, 2 + 3 + 1 + 1);  // shards, directories, manifest, its rename
    // Only the first save makes the directory itself.
    const std::set<std::string> expected =
        step == 1 ? std::set<std::string>{} : std::set<std::string>{"sync /"};
    EXPECT_EQ(needless, expected);
  }
}

TEST(Errors, AtAnyOperationAreReportedAndLeaveTheOldStateAlone) {
  const std::vector<std::string> operations = OperationsOf(2, 1);
  for (size_t i = 0; i < operations.size(); ++i) {
    for (const FaultKind kind : {FaultKind::kFail, FaultKind::kFailAfter}) {
      for (const absl::Status& error :
           {absl::ResourceExhaustedError("No space left on device"),
            absl::DataLossError("Input/output error"), absl::UnknownError("Read-only")}) {
        SCOPED_TRACE(absl::StrCat("operation ", i, " (", operations[i], "): ", error.message()));
        const auto files = FilesAfter(1, 1);
        FaultyFileSystem failing(*files, {kind, static_cast<int64_t>(i), error});
        bool committed = false;
        const absl::Status result = Cycle(failing, 2, 1, &committed);
        // Looking at an older generation may fail: then it counts as no reserve.
        const bool is_look =
            operations[i].find("step-0000000001") != std::string::npos &&
            (operations[i].rfind("open", 0) == 0 || operations[i].rfind("size", 0) == 0 ||
             operations[i].rfind("read", 0) == 0);
        if (!is_look) {
          EXPECT_EQ(result.code(), error.code()) << result;
          EXPECT_NE(result.message().find(std::string(error.message())), std::string::npos);
        }
        ExpectWhole(*files, 2, /*or_the_one_before=*/!committed);
        ExpectNextSaveCleansUp(*files, 3, 1);
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(Errors, OfADiskThatFillsUpLeaveTheOldStateAlone) {
  const int64_t used =
      (int64_t{1} << 40) - FilesAfter(1, 1)->FreeBytes("/").value();  // one generation's bytes
  int num_failed = 0, num_done = 0;
  for (int64_t capacity = used; capacity < 2 * used + 50; capacity += 7) {
    SCOPED_TRACE(capacity);
    const auto files = FilesAfter(1, 1, capacity);
    const absl::Status result = Cycle(*files, 2, 1);
    (result.ok() ? num_done : num_failed)++;
    if (!result.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(result)) << result;
    }
    ExpectWhole(*files, result.ok() ? 2 : 1, false);
  }
  EXPECT_GT(num_failed, 10);
  EXPECT_GT(num_done, 2);
}

TEST(Errors, OfSignalsAndShortTransfersAreInvisible) {
  const std::vector<std::string> operations = OperationsOf(2, 1);
  for (size_t i = 0; i < operations.size(); ++i) {
    for (const FaultKind kind : {FaultKind::kShort, FaultKind::kInterrupted}) {
      SCOPED_TRACE(operations[i]);
      const auto files = FilesAfter(1, 1);
      FaultyFileSystem stumbling(*files, {kind, static_cast<int64_t>(i), absl::OkStatus()});
      ASSERT_OK(Cycle(stumbling, 2, 1));
      ExpectWhole(stumbling, 2, false);
    }
  }
}

TEST(Errors, WhileLookingForTheNewestAreNotTakenForDamage) {
  const auto files = FilesAfter(2, 2);
  FaultyFileSystem counting(*files);
  ASSERT_TRUE(FindNewestGood(counting, kDir, NoLog).ok());
  for (int64_t i = 0; i < counting.num_operations(); ++i) {
    const std::string operation = counting.operations()[static_cast<size_t>(i)];
    SCOPED_TRACE(operation);
    FaultyFileSystem failing(
        *files, {FaultKind::kFail, i, absl::ResourceExhaustedError("Too many open files")});
    const auto newest = FindNewestGood(failing, kDir, NoLog);
    if (newest.ok()) {
      // Only what concerns the older one may go unnoticed.
      EXPECT_EQ(newest->step, 2);
      EXPECT_NE(operation.find("step-0000000001"), std::string::npos);
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(newest.status())) << newest.status();
    }
  }
}

}  // namespace
}  // namespace sluice::checkpoints
