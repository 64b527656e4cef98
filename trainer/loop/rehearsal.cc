#include "trainer/loop/rehearsal.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/cpu_stream.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/communicator.h"
#include "parallel/schedule/schedule.h"
#include "trainer/loop/device_batch.h"
#include "trainer/loop/rank_model.h"
#include "trainer/loop/train_step.h"

namespace sluice::trainer {
namespace {

using kernels::MemoryTag;
using parallel::Communicator;

struct Place {
  int rank = 0, size = 1;
};

// A rank among others that send nothing and take everything. Its splits are those that RankModel
// makes, in this order.
class StandIn : public Communicator {
 public:
  StandIn(Place place, std::vector<Place> splits, const Rehearsal& rehearsal)
      : place_(place), splits_(std::move(splits)), rehearsal_(rehearsal) {}

  int rank() const override { return place_.rank; }
  int size() const override { return place_.size; }
  absl::Status AllReduce(TensorView, parallel::ReduceOp, Stream&) override { return {}; }
  absl::Status AllGather(ConstTensorView, TensorView, Stream&) override { return {}; }
  absl::Status ReduceScatter(ConstTensorView, TensorView, parallel::ReduceOp, Stream&) override {
    return {};
  }
  // Integers are the counts of rows by which an exchange begins.
  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t>, TensorView out,
                        std::span<const int64_t>, Stream&) override {
    if (in.dtype() != DType::kI32) return {};
    const std::span<const int32_t> sent(in.data<int32_t>(), in.num_elements());
    const std::span<int32_t> come(out.mutable_data<int32_t>(), out.num_elements());
    if (place_.size == 1) {
      std::copy(sent.begin(), sent.end(), come.begin());
      return {};
    }
    // All from the first rank, which this one is not: see SplitsOf.
    std::fill(come.begin(), come.end(), 0);
    come[0] =
        static_cast<int32_t>(RowsOfNext(std::accumulate(sent.begin(), sent.end(), int64_t{0})));
    return {};
  }
  absl::Status Broadcast(TensorView, int, Stream&) override { return {}; }
  absl::Status Send(ConstTensorView, int, int, Stream&) override { return {}; }
  absl::Status Receive(TensorView, int, int, Stream&) override { return {}; }
  absl::Status Barrier() override { return {}; }
  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string&) override {
    return std::vector<std::string>(place_.size);
  }
  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int) override {
    return bytes;
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int, int) override {
    CHECK_LT(next_split_, splits_.size()) << "a rank that is rehearsed has no more groups";
    return std::make_unique<StandIn>(splits_[next_split_++], std::vector<Place>(), rehearsal_);
  }
  // Of the pool: not even the address space is there, and the run itself would end here as well.
  void Abort(const absl::Status& why) override {
    std::fprintf(stderr, "planning the step: %s\n", why.ToString().c_str());
    std::_Exit(1);
  }

 private:
  int64_t RowsOfNext(int64_t mean) {
    const std::vector<int64_t>& recorded = rehearsal_.received;
    if (recorded.empty())
      return static_cast<int64_t>(std::ceil(static_cast<double>(mean) * rehearsal_.row_factor));
    return recorded[std::min(next_exchange_++, recorded.size() - 1)];
  }

  const Place place_;
  const std::vector<Place> splits_;
  const Rehearsal& rehearsal_;
  size_t next_split_ = 0, next_exchange_ = 0;
};

// In its expert group the rank is the last. Nothing is computed, so every token chooses expert 0,
// of the first: with those choices the last one's own rows are none.
std::vector<Place> SplitsOf(const parallel::MeshShape& shape, const Rehearsal& rehearsal) {
  const int pipe = rehearsal.pipe_rank, data = rehearsal.data_rank;
  const int groups = shape.data / shape.expert, group = data / shape.expert;
  const int mirrored = 2 * pipe > shape.pipe - 1 ? 1 : 0;
  return {{pipe, shape.pipe},
          {data, shape.data},
          {shape.expert - 1, shape.expert},
          {group, groups},
          {2 * data + mirrored, 2 * shape.data},
          {2 * group + mirrored, 2 * groups}};
}

HostBatch EmptyBatch(const RunConfig& config, int64_t sequences) {
  const int64_t length = config.train().sequence_length();
  HostBatch batch;
  batch.tokens.assign(sequences * (length + 1), 0);
  batch.document_starts.assign(sequences, {0});
  batch.num_targets.assign(sequences, length);
  return batch;
}

}  // namespace

parallel::MemoryUse HeldBy(const kernels::MemoryTable& table) {
  const auto of = [&](MemoryTag tag) { return static_cast<double>(table.bytes(tag)); };
  parallel::MemoryUse use;
  use.parameters = of(MemoryTag::kParameters);
  use.gradients = of(MemoryTag::kGradients);
  use.optimizer = of(MemoryTag::kOptimizer);
  use.activations = of(MemoryTag::kActivations);
  use.communication = of(MemoryTag::kCommunication);
  use.scratch = of(MemoryTag::kScratch);
  return use;
}

absl::StatusOr<parallel::MemoryUse> Rehearse(const RunConfig& run, const Rehearsal& rehearsal) {
  RunConfig config = run;
  config.mutable_compute()->set_collectives("host");
  const parallel::MeshShape shape{config.mesh().pipe(), config.mesh().data(),
                                  config.mesh().expert()};
  const int data = rehearsal.data_rank;
  StandIn world({rehearsal.pipe_rank * shape.data + data, shape.pipe * shape.data},
                SplitsOf(shape, rehearsal), rehearsal);
  ASSIGN_OR_RETURN(const auto device, kernels::DeviceContext::Create(
                                          {.num_threads = rehearsal.threads,
                                           .stream_mode = kernels::CpuStreamMode::kSkipped}));
  RankContext rank;
  rank.world = &world;
  rank.device = device.get();
  ASSIGN_OR_RETURN(const auto model, RankModel::Create(config, rank));
  DeviceBatch batch(*device, {.sequence_length = config.train().sequence_length(),
                              .microbatch = config.train().microbatch(),
                              .mtp_depth = config.model().num_nextn_predict_layers(),
                              .document_mask = config.data().document_mask()});
  const int64_t mine = rehearsal.sequences / shape.data;
  RETURN_IF_ERROR(batch.Load(EmptyBatch(config, mine), mine * data));
  const int most = rehearsal.steps > 0 ? rehearsal.steps : 8;
  for (int step = 1; step <= most; ++step) {
    const int64_t before = device->memory().num_allocations();
    StepOptions options;
    options.global_sequences = rehearsal.sequences;
    options.update = step;
    RETURN_IF_ERROR(TrainStep(*model, batch, options).status());
    if (rehearsal.steps == 0 && device->memory().num_allocations() == before) break;
  }
  return HeldBy(device->memory());
}

}  // namespace sluice::trainer
