// A small model trained on random tokens by ranks that are threads: the same step in any layout,
// with everything that crosses a layer recorded.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "parallel/plan/plan.h"
#include "trainer/loop/train_step.h"
#include "trainer/loop/trainer.h"

namespace sluice::trainer {

struct Layout {
  int pipe = 1, data = 1, expert = 1;
  std::string schedule = "1f1b";
  int chunks = 1, threads = 1;
  std::string stage_layers = "";
  bool threaded_streams = false;
  int world() const { return pipe * data; }
  std::string Name() const;
};

// Bytes of one token's row, by "what.layer.sequence.position": equal keys in every layout.
using Rows = std::map<std::string, std::string>;

struct RunRecord {
  ModelConfig model;
  std::vector<StepResult> steps;
  Rows rows;         // of the first step
  Rows last_routes;  // of the last step of several
  std::map<std::string, std::vector<float>>
      gradients;  // of the first step, summed over the batch, by named tensor
  std::map<std::string, std::vector<float>> masters;  // at the end
  std::vector<parallel::MemoryUse> memory;            // [rank] the allocation table at the end
};

// Wraps a rank's world communicator, to plant a bug; null: none.
using WrapWorld =
    std::function<std::unique_ptr<parallel::Communicator>(std::unique_ptr<parallel::Communicator>)>;

// A DeepSeek-V3 in very small: 4 layers of which 1 dense, 8 experts top-3 in 4 groups, 1 shared,
// MTP depth 1, all losses on.
RunConfig SmallConfig(const std::string& precision);

// config on `layout`, resolved. CHECKs that it can be.
RunConfig ConfigOn(RunConfig config, const Layout& layout);

// Trains `steps` steps of config on `layout` with random tokens that depend on the seed only.
// CHECKs success.
RunRecord RunLayout(const RunConfig& config, const Layout& layout, int steps,
                    const WrapWorld& wrap = nullptr);

// What differs between a run and the run of one rank, in the words a user would read; empty if
// nothing does. Step 1: losses and every row must agree to the bit; each gradient within 1e-5 of
// its norm plus 1e-8 of the norm of all; the gradient norm within 1e-5.
// `relative` stands for 1e-5.
std::vector<std::string> CompareFirstStep(const RunRecord& one_rank, const RunRecord& other,
                                          double relative = 1e-5);

}  // namespace sluice::trainer
