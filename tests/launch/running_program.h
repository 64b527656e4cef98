// A program that runs beside the test: its output line by line, signals to it and to its ranks.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/launch/run_program.h"

namespace sluice::launch {

class RunningProgram {
 public:
  // Starts a shell command; stdout and stderr come together.
  explicit RunningProgram(const std::string& command) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const std::string line = "exec " + command;
    pid_ = fork();
    if (pid_ == 0) {
      dup2(ends[1], STDOUT_FILENO);
      dup2(ends[1], STDERR_FILENO);
      execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
      _exit(127);
    }
    close(ends[1]);
    output_ = fdopen(ends[0], "r");
  }
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;
  ~RunningProgram() {
    if (pid_ > 0) kill(pid_, SIGTERM);
    if (pid_ > 0) Wait();
    fclose(output_);
  }

  pid_t pid() const { return pid_; }
  const std::string& output() const { return all_; }  // read so far

  // Reads on until a line holds `part`; false at the end of the output.
  bool WaitFor(const std::string& part) {
    while (ReadLine()) {
      if (line_.find(part) != std::string::npos) return true;
    }
    return false;
  }
  // Reads the rest and returns the exit code, -1 after a signal.
  int Wait() {
    while (ReadLine()) {
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  bool ReadLine() {
    line_.clear();
    for (int c = fgetc(output_); c != EOF; c = fgetc(output_)) {
      line_ += static_cast<char>(c);
      if (c == '\n') break;
    }
    all_ += line_;
    return !line_.empty();
  }

  pid_t pid_ = -1;
  FILE* output_ = nullptr;
  std::string line_, all_;
};

// Processes whose command line begins with `program` and has `word` in it somewhere.
inline std::vector<pid_t> FindProcesses(const std::string& program, const std::string& word) {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string line = ReadAll(entry.path().string() + "/cmdline");
    if (line.rfind(program + '\0', 0) == 0 && line.find(word) != std::string::npos) {
      found.push_back(static_cast<pid_t>(std::stol(name)));
    }
  }
  return found;
}

}  // namespace sluice::launch
