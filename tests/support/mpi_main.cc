// main() of tests that run under mpirun. Rank 0 prints as usual, the others print failures only;
// the exit code is non-zero on every rank if a test failed on any. A test that hangs is ended.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/device.h"
#include "tests/support/mpi_world.h"

namespace sluice::testing {
namespace {

constexpr unsigned kSecondsPerTest = 120;

parallel::MpiSession* session = nullptr;
parallel::Communicator* world = nullptr;

// SIGALRM's default action ends the process, and with it mpirun the job.
class HangEnder : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo& /*test*/) override { alarm(kSecondsPerTest); }
  void OnTestEnd(const ::testing::TestInfo& /*test*/) override { alarm(0); }
};

class FailurePrinter : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::fprintf(stderr, "[rank %d] %s.%s\n%s:%d: %s\n", world->rank(),
                 test == nullptr ? "?" : test->test_suite_name(),
                 test == nullptr ? "?" : test->name(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.message());
  }
};

int Run() {
  ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (world->rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
    listeners.Append(new FailurePrinter);
  } else {
    std::printf("ranks under test: %d\n", world->size());
  }
  listeners.Append(new HangEnder);
  const int failed = RUN_ALL_TESTS();
  alarm(kSecondsPerTest);  // a rank that failed in the midst of a collective leaves others waiting
  auto codes = world->GatherBytes(std::to_string(failed));
  std::string worst = "0";
  if (codes.ok()) {
    for (const std::string& code : *codes) worst = code != "0" ? code : worst;
  }
  auto verdict = world->BroadcastBytes(worst, 0);
  if (!codes.ok() || !verdict.ok()) return 1;
  if (failed == 0 && *verdict != "0" && world->rank() == 0) {
    std::printf("[  FAILED  ] on another rank\n");
  }
  return *verdict == "0" ? 0 : 1;
}

}  // namespace

parallel::Communicator& World() { return *world; }
parallel::MpiSession& Session() { return *session; }

int Main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  auto created = parallel::MpiSession::Create(&argc, &argv);
  if (!created.ok()) {
    std::fprintf(stderr, "%s\n", created.status().ToString().c_str());
    return 1;
  }
  session = created->get();
  const std::unique_ptr<parallel::Communicator> all = session->World();
  world = all.get();
  SetRankForCheckFailures(world->rank());
  return Run();
}

}  // namespace sluice::testing

int main(int argc, char** argv) { return sluice::testing::Main(argc, argv); }
