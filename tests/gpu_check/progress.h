// Which tests have run, kept in a file, so that a run that was cut short goes on where it was.
#pragma once

#include <map>
#include <string>

namespace sluice::testing {

// A line an event, "begin NAME", "passed NAME" or "failed NAME", flushed to disk as it is written.
class Progress {
 public:
  enum class State { kBegun, kPassed, kFailed };

  // Reads what is there. A last line that was cut off is removed.
  explicit Progress(std::string path);
  void Write(State state, const std::string& test);

  // The last event of each test. One that has only begun never came back: it hung, or took the
  // process or the machine with it.
  const std::map<std::string, State>& tests() const { return tests_; }
  int Count(State state) const;

 private:
  const std::string path_;
  std::map<std::string, State> tests_;
};

}  // namespace sluice::testing
