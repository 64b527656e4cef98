// Ranks as threads of the test, each with its own communicator and device.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/core/device.h"
#include "parallel/comm/communicator.h"

namespace sluice::testing {

using RankBody = std::function<void(parallel::Communicator& group, kernels::DeviceContext& device)>;

// Calls body once on each rank of a group of num_ranks, all at the same time; returns when all are
// done. One rank uses the Self communicator, more use Threads.
inline void RunThreadRanks(int num_ranks, kernels::CpuStreamMode mode, const RankBody& body) {
  std::vector<std::unique_ptr<parallel::Communicator>> groups;
  if (num_ranks == 1) {
    groups.push_back(parallel::CreateSelfCommunicator());
  } else {
    groups = parallel::CreateThreadCommunicators(num_ranks);
  }
  std::vector<std::thread> threads;
  for (int p = 0; p < num_ranks; ++p) {
    threads.emplace_back([&, p] {
      auto device = kernels::DeviceContext::Create({.stream_mode = mode});
      ASSERT_TRUE(device.ok()) << device.status();
      body(*groups[p], **device);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace sluice::testing
