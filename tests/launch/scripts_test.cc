// launch/install_dependencies and launch/quickstart where they cannot do their work.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launch/run_program.h"
#include "tests/support/source_path.h"

namespace sluice::launch {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

class InstallDependencies : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = TestFolder();
    std::filesystem::create_directory(dir_ + "/bin");
    std::ofstream(dir_ + "/os-release") << "NAME=\"Slackware\"\nID=slackware\nVERSION_ID=15.0\n";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  // A program that comes before the machine's own.
  void Fake(const std::string& name, const std::string& body) const {
    const std::string path = dir_ + "/bin/" + name;
    std::ofstream(path) << "#!/bin/sh\n" << body;
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }
  // A compiler that does not have headers whose include matches `pattern`, and all others.
  void FakeCompiler(const std::string& pattern) const {
    Fake("g++", "! grep -q '" + pattern + "'\n");
  }
  Outcome Run(const std::string& options = "") const {
    return RunShell("PATH=" + dir_ + "/bin:$PATH SLUICE_OS_RELEASE=" + dir_ + "/os-release " +
                    testing::SourcePath("launch/install_dependencies") + " " + options);
  }

  std::string dir_;
};

TEST_F(InstallDependencies, OnAnUnknownSystemNamesWhatIsMissingInOneSentence) {
  FakeCompiler("protobuf\\|absl\\|gtest\\|gmock");
  Fake("mpicxx", "exit 1\n");
  const Outcome outcome = Run("--with-tests");
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("not 'slackware 15.0'; please install what provides: "));
  EXPECT_THAT(outcome.err,
              EndsWith("mpi.h (Open MPI), google/protobuf/message.h (Protocol Buffers), "
                       "absl/status/statusor.h (Abseil), gtest/gtest.h (GoogleTest), "
                       "gmock/gmock.h (GoogleMock)\n"));
  // Users build no tests.
  EXPECT_THAT(Run().err, Not(HasSubstr("GoogleTest")));
  EXPECT_THAT(Run().err, HasSubstr("Abseil"));
}

TEST_F(InstallDependencies, OnAnUnknownSystemWithEverythingThereItIsContent) {
  FakeCompiler("nothing");
  Fake("mpicxx", "exit 0\n");
  for (const char* tool : {"cmake", "ninja", "pkg-config", "mpirun", "protoc", "gzip", "xz"})
    Fake(tool, "exit 0\n");
  const Outcome outcome = Run("--with-tests");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out + outcome.err, "");
}

TEST_F(InstallDependencies, WithoutAnyNameOfTheSystemSaysUnknown) {
  std::filesystem::remove(dir_ + "/os-release");
  FakeCompiler("zlib");
  Fake("mpicxx", "exit 0\n");
  EXPECT_THAT(Run().err, HasSubstr("not 'unknown'; please install what provides: "));
  EXPECT_THAT(Run().err, HasSubstr("zlib.h"));
}

TEST_F(InstallDependencies, UnknownOptionsAreNamed) {
  const Outcome outcome = Run("--with-test");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("there is no option '--with-test'; there is --with-tests"));
}

// Before anything is installed or built.
TEST(Quickstart, ArgumentErrorsAreToldAtOnce) {
  const auto expect = [](const std::string& arguments, const std::string& sentence) {
    const Outcome outcome = RunShell(testing::SourcePath("launch/quickstart") + " " + arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_EQ(outcome.err, "quickstart: " + sentence + "\n");
  };
  expect("--steps 3", "there is no option '--steps'; there is --set path.to.field=value");
  expect("--set", "--set has nothing after it, wanted path.to.field=value");
  expect("--set train.steps", "--set: found 'train.steps', wanted path.to.field=value");
  expect("--set train.steps=3 --set =3", "--set: found '=3', wanted path.to.field=value");
  const Outcome help = RunShell(testing::SourcePath("launch/quickstart") + " --set a=b --help");
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("launch/quickstart [--set path.to.field=value]..."));
}

}  // namespace
}  // namespace sluice::launch
