// What a command of `sluice` is: launch/commands/<name>.cc holds one each.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launch/flags.h"
#include "parallel/comm/communicator.h"

namespace sluice::launch {

// What a command stands on. `world` is null for a command that does not run under mpirun.
struct CommandContext {
  parallel::Communicator* world = nullptr;
  int ranks_on_host = 1, rank_on_host = 0;

  bool is_first_rank() const { return world == nullptr || world->rank() == 0; }
};

class Command {
 public:
  virtual ~Command() = default;
  virtual std::string name() const = 0;
  virtual std::string summary() const = 0;      // one line without a full stop
  virtual std::string description() const = 0;  // for `sluice help NAME`: paragraphs, examples
  virtual bool runs_on_ranks() const { return false; }
  virtual FlagSet flags() = 0;  // bound to this object
  // Called once, after the flags are filled. The message of an error is the sentence the user
  // reads; a command on ranks may fail on some of them only.
  virtual absl::Status Run(const CommandContext& context) = 0;
};

}  // namespace sluice::launch
