// main() of tests that run under mpirun. Rank 0 prints as usual, the others print failures only. A
// test that failed on any rank fails on all and is the last one, since it may have left messages
// behind. A test that hangs is ended.
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
// A rank that failed in the midst of a collective waits this long for others, who wait for it.
constexpr unsigned kSecondsAfterFailure = 10;

parallel::MpiSession* session = nullptr;
parallel::Communicator* world = nullptr;
bool transport_was_chosen = false;

// Ranks meet after each test, over a communicator of their own, and tell each other how it went.
class Meeting : public ::testing::EmptyTestEventListener {
 public:
  explicit Meeting(parallel::Communicator& group) : group_(group) {}

 private:
  // SIGALRM's default action ends the process, and with it mpirun the job.
  void OnTestStart(const ::testing::TestInfo& /*test*/) override { alarm(kSecondsPerTest); }

  void OnTestEnd(const ::testing::TestInfo& test) override {
    const bool failed = test.result()->Failed();
    if (failed) alarm(kSecondsAfterFailure);
    const auto all = group_.GatherBytes(failed ? "failed" : "");
    std::string summary;
    for (size_t p = 0; all.ok() && p < all->size(); ++p) summary += (*all)[p];
    const auto verdict = group_.BroadcastBytes(summary, 0);
    if (!verdict.ok()) {
      ADD_FAILURE() << verdict.status();
    } else if (!failed && !verdict->empty()) {
      ADD_FAILURE() << "failed on another rank";
    }
    alarm(0);
  }

  parallel::Communicator& group_;
};

class FailurePrinter : public ::testing::EmptyTestEventListener {
  // Kept here: asking GoogleTest for it from OnTestPartResult deadlocks.
  void OnTestStart(const ::testing::TestInfo& test) override {
    test_ = std::string(test.test_suite_name()) + "." + test.name();
  }

  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s\n%s:%d: %s\n", world->rank(), test_.c_str(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.message());
  }

  std::string test_;
};

int Run(parallel::Communicator& control) {
  ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (world->rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
    listeners.Append(new FailurePrinter);
  } else {
    std::printf("ranks under test: %d\n", world->size());
  }
  listeners.Append(new Meeting(control));
  GTEST_FLAG_SET(fail_fast, true);
  return RUN_ALL_TESTS();
}

}  // namespace

parallel::Communicator& World() { return *world; }
parallel::MpiSession& Session() { return *session; }
bool TransportWasChosen() { return transport_was_chosen; }

int Main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  transport_was_chosen =
      std::getenv("OMPI_MCA_pml") != nullptr || std::getenv("OMPI_MCA_btl") != nullptr;
  auto created = parallel::MpiSession::Create(&argc, &argv);
  if (!created.ok()) {
    std::fprintf(stderr, "%s\n", created.status().ToString().c_str());
    return 1;
  }
  session = created->get();
  const std::unique_ptr<parallel::Communicator> all = session->World();
  world = all.get();
  SetRankForCheckFailures(world->rank());
  const std::unique_ptr<parallel::Communicator> control = session->World();
  return Run(*control);
}

}  // namespace sluice::testing

int main(int argc, char** argv) { return sluice::testing::Main(argc, argv); }
