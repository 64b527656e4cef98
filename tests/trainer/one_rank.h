// A whole model on one rank, with a batch of random tokens and its master weights at hand.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/communicator.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {

struct OneRank {
  // Resolves `config` for one rank and initialises weights; no batch yet. CHECKs success.
  explicit OneRank(const RunConfig& config, int threads = 1);

  // `step` chooses the tokens; documents begin at a few places of each sequence.
  void LoadRandomBatch(int step);
  // Learning rate 0 leaves the weights as they are.
  StepResult Train(double learning_rate, int64_t update = 1);
  StepResult Evaluate();
  // Calls visit(piece, master, gradient) for every piece of a named tensor, piece.count elements
  // each; the pointers lie in the optimizer's arrays.
  using PieceVisitor =
      std::function<void(const NamedPiece& piece, float* master, const float* gradient)>;
  void ForEachPiece(const PieceVisitor& visit);
  // After masters were written.
  void Publish();

  RunConfig config;
  std::unique_ptr<parallel::Communicator> world;
  std::unique_ptr<kernels::DeviceContext> device;
  std::unique_ptr<RankModel> model;
  std::unique_ptr<DeviceBatch> batch;
};

// Two layers of which one is dense, hidden 24, 4 experts top-2, MLA, no MTP, FP32; two microbatches
// of two sequences of 7 tokens. Small enough for a few thousand forward passes a second.
RunConfig TinyConfig();

// The same with widths that FP8 takes, in "FP8" or another precision.
RunConfig TinyFp8(const std::string& precision);

}  // namespace sluice::trainer
