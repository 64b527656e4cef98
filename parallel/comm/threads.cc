// Ranks as threads of one process. A collective is: every rank publishes where its arguments are,
// all meet, each pulls what it needs from its peers' memory, all meet again.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/arguments.h"

namespace sluice::parallel {
namespace {

// Shared by all groups that came from one CreateThreadCommunicators, so that Abort frees everybody.
struct World {
  std::mutex mutex;  // guards all below and every Group of this world
  std::condition_variable changed;
  absl::Status aborted;  // OK while nobody called Abort
};

// What one rank shows its peers during a collective.
struct Published {
  const void* in = nullptr;
  void* out = nullptr;
  int64_t bytes = 0;                   // of `in`
  std::span<const int64_t> send_rows;  // AllToAll
  const std::string* text = nullptr;   // GatherBytes, BroadcastBytes
  int color = 0, key = 0;              // Split
};

struct Group {
  Group(std::shared_ptr<World> shared_world, int num_ranks)
      : world(std::move(shared_world)), size(num_ranks), published(num_ranks), split(num_ranks) {}

  const std::shared_ptr<World> world;
  const int size;
  std::vector<Published> published;           // [P], own slot written before a meeting
  std::vector<std::shared_ptr<Group>> split;  // [P], results of Split
  std::vector<int> split_rank = std::vector<int>(size);
  int arrived = 0;
  int working = 0;  // ranks that may be reading their peers' memory
  uint64_t meeting = 0;
  std::map<std::tuple<int, int, int>, std::deque<std::string>> mail;  // (from, to, tag)
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), world_(*group_->world), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size; }

  absl::Status AllReduce(TensorView data, ReduceOp op, Stream& stream) override {
    CheckAllReduce(data);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    const int64_t bytes = static_cast<int64_t>(data.bytes());
    Published mine;
    mine.out = data.raw_mutable_data();
    mine.bytes = bytes;
    return Collective(mine, [&] {
      // This rank reduces one slice and writes it to all; slices do not overlap.
      const int64_t n = data.num_elements(), width = static_cast<int64_t>(SizeOf(data.dtype()));
      const int64_t begin = n * rank_ / size(), end = n * (rank_ + 1) / size();
      std::vector<const void*> sources(size());
      for (int p = 0; p < size(); ++p) {
        CHECK_EQ(Peer(p).bytes, bytes) << "AllReduce: rank " << p << " and " << rank_;
        sources[p] = static_cast<const char*>(Peer(p).out) + begin * width;
      }
      void* reduced = static_cast<char*>(mine.out) + begin * width;
      ReduceInOrder(sources, reduced, end - begin, data.dtype(), op);
      for (int p = 0; p < size(); ++p) {
        CopyBytes(reduced, const_cast<void*>(sources[p]), (end - begin) * width);
      }
    });
  }

  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    CheckAllGather(in, out, size());
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    const int64_t bytes = static_cast<int64_t>(in.bytes());
    Published mine;
    mine.in = in.raw_data();
    mine.bytes = bytes;
    return Collective(mine, [&] {
      for (int p = 0; p < size(); ++p) {
        CHECK_EQ(Peer(p).bytes, bytes) << "AllGather: rank " << p << " and " << rank_;
        CopyBytes(Peer(p).in, static_cast<char*>(out.raw_mutable_data()) + p * bytes, bytes);
      }
    });
  }

  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op,
                             Stream& stream) override {
    CheckReduceScatter(in, out, size());
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    Published mine;
    mine.in = in.raw_data();
    mine.bytes = static_cast<int64_t>(in.bytes());
    return Collective(mine, [&] {
      std::vector<const void*> sources(size());
      for (int p = 0; p < size(); ++p) {
        CHECK_EQ(Peer(p).bytes, mine.bytes) << "ReduceScatter: rank " << p << " and " << rank_;
        sources[p] = static_cast<const char*>(Peer(p).in) + rank_ * out.bytes();
      }
      ReduceInOrder(sources, out.raw_mutable_data(), out.num_elements(), out.dtype(), op);
    });
  }

  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows, TensorView out,
                        std::span<const int64_t> receive_rows, Stream& stream) override {
    CheckAllToAll(in, send_rows, out, receive_rows, size());
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    Published mine;
    mine.in = in.raw_data();
    mine.send_rows = send_rows;
    return Collective(mine, [&] {
      const int64_t row_bytes = in.extent(1) * static_cast<int64_t>(SizeOf(in.dtype()));
      char* to = static_cast<char*>(out.raw_mutable_data());
      for (int p = 0; p < size(); ++p) {
        CHECK_EQ(Peer(p).send_rows[rank_], receive_rows[p]) << "rows from " << p << " to " << rank_;
        int64_t skipped = 0;
        for (int q = 0; q < rank_; ++q) skipped += Peer(p).send_rows[q];
        const int64_t bytes = receive_rows[p] * row_bytes;
        CopyBytes(static_cast<const char*>(Peer(p).in) + skipped * row_bytes, to, bytes);
        to += bytes;
      }
    });
  }

  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(root, size());
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    Published mine;
    mine.in = data.raw_data();
    mine.bytes = static_cast<int64_t>(data.bytes());
    return Collective(mine, [&] {
      CHECK_EQ(Peer(root).bytes, mine.bytes) << "Broadcast: root and rank " << rank_;
      CopyBytes(Peer(root).in, data.raw_mutable_data(), mine.bytes);
    });
  }

  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(peer, size());
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    std::string copy(static_cast<const char*>(data.raw_data()), data.bytes());
    std::lock_guard<std::mutex> lock(world_.mutex);
    if (!world_.aborted.ok()) return world_.aborted;
    group_->mail[{rank_, peer, tag}].push_back(std::move(copy));
    world_.changed.notify_all();
    return absl::OkStatus();
  }

  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(peer, size());
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    std::string message;
    {
      std::unique_lock<std::mutex> lock(world_.mutex);
      std::deque<std::string>& queue = group_->mail[{peer, rank_, tag}];
      world_.changed.wait(lock, [&] { return !queue.empty() || !world_.aborted.ok(); });
      if (!world_.aborted.ok()) return world_.aborted;
      message = std::move(queue.front());
      queue.pop_front();
    }
    CHECK_EQ(message.size(), data.bytes()) << "from rank " << peer << " tag " << tag;
    CopyBytes(message.data(), data.raw_mutable_data(), data.bytes());
    return absl::OkStatus();
  }

  absl::Status Barrier() override {
    return Collective(Published(), [] {});
  }

  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    Published mine;
    mine.text = &bytes;
    std::vector<std::string> all;
    RETURN_IF_ERROR(Collective(mine, [&] {
      for (int p = 0; rank_ == 0 && p < size(); ++p) all.push_back(*Peer(p).text);
    }));
    return all;
  }

  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    CheckPeer(root, size());
    Published mine;
    mine.text = &bytes;
    std::string copy;
    RETURN_IF_ERROR(Collective(mine, [&] { copy = *Peer(root).text; }));
    return copy;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    Published mine;
    mine.color = color;
    mine.key = key;
    RETURN_IF_ERROR(Collective(mine, [&] {
      if (rank_ == 0) MakeSplitGroups();
    }));
    // Nobody changes these until the next Split, in whose first meeting this rank takes part.
    std::shared_ptr<Group> group = std::move(group_->split[rank_]);
    return std::make_unique<ThreadCommunicator>(std::move(group), group_->split_rank[rank_]);
  }

  void Abort(const absl::Status& why) override {
    std::fprintf(stderr, "rank %d ends all ranks: %s\n", rank_, why.ToString().c_str());
    std::lock_guard<std::mutex> lock(world_.mutex);
    if (world_.aborted.ok()) {
      world_.aborted = absl::UnavailableError("rank " + std::to_string(rank_) +
                                              " ended all ranks: " + why.ToString());
    }
    world_.changed.notify_all();
  }

 private:
  const Published& Peer(int p) const { return group_->published[p]; }

  // Publishes, meets, runs work(), meets.
  template <typename Work>
  absl::Status Collective(const Published& mine, const Work& work) {
    group_->published[rank_] = mine;
    RETURN_IF_ERROR(Meet(/*work_follows=*/true));
    work();
    return Meet(/*work_follows=*/false);
  }

  // Returns when all ranks are here. After an Abort: UNAVAILABLE, but only once no peer can be
  // reading this rank's memory any more.
  absl::Status Meet(bool work_follows) {
    std::unique_lock<std::mutex> lock(world_.mutex);
    Group& group = *group_;
    if (!work_follows) --group.working;
    if (work_follows && !world_.aborted.ok()) return world_.aborted;
    const uint64_t mine = group.meeting;
    if (++group.arrived == group.size) {
      group.arrived = 0;
      ++group.meeting;
      if (work_follows) group.working = group.size;
    }
    world_.changed.notify_all();
    world_.changed.wait(lock, [&] {
      return group.meeting != mine || (!world_.aborted.ok() && group.working == 0);
    });
    return group.meeting != mine ? absl::OkStatus() : world_.aborted;
  }

  // One Group for each colour, its ranks ordered by (key, rank).
  void MakeSplitGroups() {
    std::map<int, std::vector<std::pair<int, int>>> members;  // colour -> (key, rank)
    for (int p = 0; p < size(); ++p) members[Peer(p).color].emplace_back(Peer(p).key, p);
    for (auto& [color, ranks] : members) {
      std::sort(ranks.begin(), ranks.end());
      auto group = std::make_shared<Group>(group_->world, static_cast<int>(ranks.size()));
      for (size_t i = 0; i < ranks.size(); ++i) {
        group_->split[ranks[i].second] = group;
        group_->split_rank[ranks[i].second] = static_cast<int>(i);
      }
    }
  }

  const std::shared_ptr<Group> group_;
  World& world_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> CreateThreadCommunicators(int num_ranks) {
  CHECK_GE(num_ranks, 1);
  auto group = std::make_shared<Group>(std::make_shared<World>(), num_ranks);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int p = 0; p < num_ranks; ++p)
    ranks.push_back(std::make_unique<ThreadCommunicator>(group, p));
  return ranks;
}

}  // namespace sluice::parallel
