// Every message is moved as bytes by point-to-point calls on 64-bit addresses: no count ever
// exceeds an int, MPI needs no bf16, and sums are ours, in rank order. (MPI leaves the order of a
// reduction open, and Open MPI 4.1's MPI_Reduce_scatter_block is several times slower than this for
// 1 MiB and more on one host; tests/bench/collective_bench.cc prints the ratio.)
#include "parallel/comm/mpi.h"

#include <mpi.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/arguments.h"
#include "parallel/comm/patience.h"

namespace sluice::parallel {
namespace {

constexpr int64_t kMaxMessageBytes = int64_t{1} << 30;  // MPI counts are ints
constexpr int64_t kScratchBytes = int64_t{1} << 20;  // what a reduction receives at a time: fits L2
// Up to here AllReduce sends everything to everybody: one round of messages instead of two.
constexpr int64_t kSmallReduceBytes = int64_t{16} << 10;
constexpr int kCollectiveTag = 0;  // a caller's tag t travels as t + 1

absl::Status StatusOf(int code, absl::string_view what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::InternalError(absl::StrCat(what, " failed: ", absl::string_view(text, length)));
}

struct Part {
  char* data = nullptr;
  int64_t bytes = 0;
};

enum class Waiting : uint8_t { kPolls, kSleeps };  // between two questions for a message

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, Waiting waiting) : comm_(comm), waiting_(waiting) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    sends_.resize(size_);
    receives_.resize(size_);
    sources_.resize(size_);
  }

  ~MpiCommunicator() override {
    // A send that nobody received would wait for ever; after an error nobody may come.
    if (!failed_) {
      for (PendingSend& send : pending_) WaitFor({&send.request, 1}, MPI_STATUSES_IGNORE);
    }
    MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduce(TensorView data, ReduceOp op, Stream& stream) override {
    CheckAllReduce(data);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    if (size_ == 1) return absl::OkStatus();
    const int64_t n = data.num_elements(), width = static_cast<int64_t>(SizeOf(data.dtype()));
    const int64_t piece = std::min(n, kScratchBytes / width);
    for (int64_t begin = 0; begin < n; begin += piece) {
      char* at = static_cast<char*>(data.raw_mutable_data()) + begin * width;
      RETURN_IF_ERROR(AllReducePiece(at, std::min(piece, n - begin), data.dtype(), op));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    CheckAllGather(in, out, size_);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    const int64_t bytes = static_cast<int64_t>(in.bytes());
    for (int p = 0; p < size_; ++p) {
      sends_[p] = {MutableBytes(in), bytes};
      receives_[p] = {MutableBytes(out) + p * bytes, bytes};
    }
    return Exchange();
  }

  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op,
                             Stream& stream) override {
    CheckReduceScatter(in, out, size_);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    const int64_t n = out.num_elements(), width = static_cast<int64_t>(SizeOf(out.dtype()));
    const int64_t piece = std::min(n, std::max<int64_t>(1, kScratchBytes / (width * size_)));
    Grow(scratch_, piece * width * size_);
    for (int64_t begin = 0; begin < n; begin += piece) {
      const int64_t count = std::min(piece, n - begin), bytes = count * width;
      for (int p = 0; p < size_; ++p) {
        sends_[p] = {MutableBytes(in) + (p * n + begin) * width, bytes};
        receives_[p] = {p == rank_ ? sends_[p].data : scratch_.data() + p * bytes, bytes};
        sources_[p] = receives_[p].data;
      }
      RETURN_IF_ERROR(Exchange());
      ReduceInOrder(sources_, MutableBytes(out) + begin * width, count, out.dtype(), op);
    }
    return absl::OkStatus();
  }

  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows, TensorView out,
                        std::span<const int64_t> receive_rows, Stream& stream) override {
    CheckAllToAll(in, send_rows, out, receive_rows, size_);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    const int64_t row_bytes = in.extent(1) * static_cast<int64_t>(SizeOf(in.dtype()));
    char* from = MutableBytes(in);
    char* to = MutableBytes(out);
    for (int p = 0; p < size_; ++p) {
      sends_[p] = {from, send_rows[p] * row_bytes};
      receives_[p] = {to, receive_rows[p] * row_bytes};
      from += sends_[p].bytes;
      to += receives_[p].bytes;
    }
    return Exchange();
  }

  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(root, size_);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    return BroadcastFrom(root, MutableBytes(data), static_cast<int64_t>(data.bytes()));
  }

  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(peer, size_);
    CHECK_GE(tag, 0);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    const int64_t bytes = static_cast<int64_t>(data.bytes());
    int64_t begin = 0;
    do {  // an empty message is a message too
      const int64_t count = std::min(bytes - begin, kMaxMessageBytes);
      PendingSend& send = FreeSend(count);
      CopyBytes(MutableBytes(data) + begin, send.data.data(), count);
      RETURN_IF_ERROR(Called(MPI_Isend(send.data.data(), static_cast<int>(count), MPI_BYTE, peer,
                                       tag + 1, comm_, &send.request),
                             "MPI_Isend"));
      begin += count;
    } while (begin < bytes);
    return absl::OkStatus();
  }

  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    CheckContiguous(data);
    CheckPeer(peer, size_);
    CHECK_GE(tag, 0);
    RETURN_IF_ERROR(FinishEarlierWork(stream));
    const int64_t bytes = static_cast<int64_t>(data.bytes());
    int64_t begin = 0;
    do {
      const int64_t count = std::min(bytes - begin, kMaxMessageBytes);
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Status status;
      RETURN_IF_ERROR(Called(MPI_Irecv(MutableBytes(data) + begin, static_cast<int>(count),
                                       MPI_BYTE, peer, tag + 1, comm_, &request),
                             "MPI_Irecv"));
      RETURN_IF_ERROR(Called(WaitFor({&request, 1}, &status), "waiting for a message"));
      CheckLength(status, count);
      begin += count;
    } while (begin < bytes);
    return absl::OkStatus();
  }

  absl::Status Barrier() override {
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(Called(MPI_Ibarrier(comm_, &request), "MPI_Ibarrier"));
    return Called(WaitFor({&request, 1}, MPI_STATUSES_IGNORE), "waiting at a barrier");
  }

  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    int64_t length = static_cast<int64_t>(bytes.size());
    std::vector<int64_t> lengths(size_);
    for (int p = 0; p < size_; ++p) {
      sends_[p] = {reinterpret_cast<char*>(&length), p == 0 ? int64_t{sizeof(length)} : 0};
      receives_[p] = {reinterpret_cast<char*>(&lengths[p]),
                      rank_ == 0 ? int64_t{sizeof(length)} : 0};
    }
    RETURN_IF_ERROR(Exchange());
    std::vector<std::string> all(rank_ == 0 ? size_ : 0);
    for (int p = 0; p < size_; ++p) {
      sends_[p] = {const_cast<char*>(bytes.data()), p == 0 ? length : 0};
      receives_[p] = {};
      if (rank_ != 0) continue;
      all[p].resize(lengths[p]);
      receives_[p] = {all[p].data(), lengths[p]};
    }
    RETURN_IF_ERROR(Exchange());
    return all;
  }

  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    CheckPeer(root, size_);
    int64_t length = static_cast<int64_t>(bytes.size());
    RETURN_IF_ERROR(BroadcastFrom(root, reinterpret_cast<char*>(&length), sizeof(length)));
    std::string copy = rank_ == root ? bytes : std::string(length, '\0');
    RETURN_IF_ERROR(BroadcastFrom(root, copy.data(), length));
    return copy;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    CHECK_GE(color, 0);
    MPI_Comm part = MPI_COMM_NULL;
    RETURN_IF_ERROR(Called(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split"));
    return std::make_unique<MpiCommunicator>(part, waiting_);
  }

  void Abort(const absl::Status& why) override {
    int world_rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    std::fprintf(stderr, "rank %d ends all ranks: %s\n", world_rank, why.ToString().c_str());
    std::fflush(stderr);
    failed_ = true;
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);  // MPI_Abort should not return
  }

 private:
  // A message on its way, in a copy of its own; its buffer is used again once it has gone.
  struct PendingSend {
    std::vector<char> data;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  static char* MutableBytes(const ConstTensorView& view) {
    return static_cast<char*>(const_cast<void*>(view.raw_data()));  // MPI sends do not write
  }

  static void Grow(std::vector<char>& buffer, int64_t bytes) {
    if (static_cast<int64_t>(buffer.size()) < bytes) buffer.resize(bytes);
  }

  static void CheckLength(const MPI_Status& status, int64_t bytes) {
    int received = 0;
    MPI_Get_count(&status, MPI_BYTE, &received);
    CHECK_EQ(received, bytes) << "bytes received from rank " << status.MPI_SOURCE;
  }

  absl::Status Called(int code, absl::string_view what) {
    if (code != MPI_SUCCESS) failed_ = true;
    return StatusOf(code, what);
  }

  // MPI_Waitall, which never sleeps, where each rank has a core to itself.
  int WaitFor(std::span<MPI_Request> requests, MPI_Status* statuses) {
    const int count = static_cast<int>(requests.size());
    if (waiting_ == Waiting::kPolls) return MPI_Waitall(count, requests.data(), statuses);
    for (Patience patience;; patience.Rest()) {
      int done = 0;
      const int code = MPI_Testall(count, requests.data(), &done, statuses);
      if (code != MPI_SUCCESS || done != 0) return code;
    }
  }

  // The smallest unused buffer that is large enough, else the largest unused one, grown; a new one
  // only when all are in use.
  PendingSend& FreeSend(int64_t bytes) {
    PendingSend* best = nullptr;
    for (PendingSend& send : pending_) {
      int done = 1;
      if (send.request != MPI_REQUEST_NULL) MPI_Test(&send.request, &done, MPI_STATUS_IGNORE);
      if (!done) continue;
      const bool fits = static_cast<int64_t>(send.data.size()) >= bytes;
      const bool best_fits = best != nullptr && static_cast<int64_t>(best->data.size()) >= bytes;
      const bool smaller = best != nullptr && send.data.size() < best->data.size();
      if (best == nullptr || (fits && !best_fits) || (fits == best_fits && smaller == fits)) {
        best = &send;
      }
    }
    if (best == nullptr) best = &pending_.emplace_back();
    Grow(best->data, bytes);
    return *best;
  }

  // Sends sends_[p] to and receives receives_[p] from every p; to itself by copying. An empty part
  // is no message, so both sides must agree on what is empty.
  absl::Status Exchange() {
    requests_.clear();
    expected_.clear();
    for (int step = 1; step < size_; ++step) {
      const int p = (rank_ + size_ - step) % size_;
      for (int64_t begin = 0; begin < receives_[p].bytes; begin += kMaxMessageBytes) {
        const int64_t count = std::min(kMaxMessageBytes, receives_[p].bytes - begin);
        requests_.push_back(MPI_REQUEST_NULL);
        expected_.push_back(count);
        RETURN_IF_ERROR(Called(MPI_Irecv(receives_[p].data + begin, static_cast<int>(count),
                                         MPI_BYTE, p, kCollectiveTag, comm_, &requests_.back()),
                               "MPI_Irecv"));
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int p = (rank_ + step) % size_;  // so that not everybody starts with rank 0
      for (int64_t begin = 0; begin < sends_[p].bytes; begin += kMaxMessageBytes) {
        const int64_t count = std::min(kMaxMessageBytes, sends_[p].bytes - begin);
        requests_.push_back(MPI_REQUEST_NULL);
        RETURN_IF_ERROR(Called(MPI_Isend(sends_[p].data + begin, static_cast<int>(count), MPI_BYTE,
                                         p, kCollectiveTag, comm_, &requests_.back()),
                               "MPI_Isend"));
      }
    }
    CHECK_EQ(sends_[rank_].bytes, receives_[rank_].bytes) << "from rank " << rank_ << " to itself";
    CopyBytes(sends_[rank_].data, receives_[rank_].data, sends_[rank_].bytes);
    statuses_.resize(requests_.size());
    RETURN_IF_ERROR(Called(WaitFor(requests_, statuses_.data()), "waiting for an exchange"));
    for (size_t i = 0; i < expected_.size(); ++i) CheckLength(statuses_[i], expected_[i]);
    return absl::OkStatus();
  }

  // n elements that fit the scratch. Both ways add in rank order, so they give the same bits.
  absl::Status AllReducePiece(char* data, int64_t n, kernels::DType dtype, ReduceOp op) {
    const int64_t width = static_cast<int64_t>(SizeOf(dtype)), bytes = n * width;
    const bool small = bytes * size_ <= kSmallReduceBytes;
    // Large: rank p reduces elements [n p / P, n (p + 1) / P) and then sends them to all.
    const auto begin_of = [&](int p) { return n * p / size_ * width; };
    const int64_t my_begin = small ? 0 : begin_of(rank_);
    const int64_t my_bytes = small ? bytes : begin_of(rank_ + 1) - my_begin;
    Grow(scratch_, my_bytes * size_);
    for (int p = 0; p < size_; ++p) {
      const int64_t begin = small ? 0 : begin_of(p);
      sends_[p] = {data + begin, small ? bytes : begin_of(p + 1) - begin};
      receives_[p] = {p == rank_ ? sends_[p].data : scratch_.data() + p * my_bytes, my_bytes};
      sources_[p] = receives_[p].data;
    }
    RETURN_IF_ERROR(Exchange());
    ReduceInOrder(sources_, data + my_begin, my_bytes / width, dtype, op);
    if (small) return absl::OkStatus();
    for (int p = 0; p < size_; ++p) {
      sends_[p] = {data + my_begin, my_bytes};
      receives_[p] = {data + begin_of(p), begin_of(p + 1) - begin_of(p)};
    }
    return Exchange();
  }

  absl::Status BroadcastFrom(int root, char* data, int64_t bytes) {
    for (int64_t begin = 0; begin < bytes; begin += kMaxMessageBytes) {
      const int count = static_cast<int>(std::min(kMaxMessageBytes, bytes - begin));
      MPI_Request request = MPI_REQUEST_NULL;
      RETURN_IF_ERROR(
          Called(MPI_Ibcast(data + begin, count, MPI_BYTE, root, comm_, &request), "MPI_Ibcast"));
      RETURN_IF_ERROR(
          Called(WaitFor({&request, 1}, MPI_STATUSES_IGNORE), "waiting for a broadcast"));
    }
    return absl::OkStatus();
  }

  MPI_Comm comm_;
  Waiting waiting_;
  int rank_ = 0, size_ = 1;
  bool failed_ = false;
  std::vector<Part> sends_, receives_;  // [P], arguments of Exchange
  std::vector<const void*> sources_;    // [P], arguments of ReduceInOrder
  std::vector<char> scratch_;           // what a reduction receives
  std::vector<MPI_Request> requests_;   // of one Exchange: receives first
  std::vector<int64_t> expected_;       // bytes of those receives
  std::vector<MPI_Status> statuses_;
  std::vector<PendingSend> pending_;
};

// How many cores this process may run on; 0: not known.
int UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 0;
}

// Open MPI reads these in MPI_Init. Nothing the user has set is changed.
void TuneOpenMpi() {
  constexpr int kKeepWhatIsSet = 0;
  const char* job = std::getenv("OMPI_COMM_WORLD_SIZE");
  const char* here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  // Ranks that wait must not hold a core that others need. Where ranks share cores they sleep
  // between their questions, and a yield, which Open MPI would add to each, would put the question
  // after all who work: 4 ms later. (Ranks with a core each then poll without it, at nobody's
  // cost.)
  const bool sleeps = here != nullptr && std::atoi(here) > UsableCores();
  setenv("OMPI_MCA_mpi_yield_when_idle", sleeps ? "0" : "1", kKeepWhatIsSet);
  const bool alone = job == nullptr && std::getenv("PMIX_RANK") == nullptr;
  const bool one_host = job != nullptr && here != nullptr && std::string(job) == here;
  const bool chosen =
      std::getenv("OMPI_MCA_pml") != nullptr || std::getenv("OMPI_MCA_btl") != nullptr;
  if (!(alone || one_host) || chosen) return;
  // Halves the start-up time, and 1 MiB collectives took a fifth of the time.
  setenv("OMPI_MCA_pml", "ob1", kKeepWhatIsSet);
  setenv("OMPI_MCA_btl", "self,vader", kKeepWhatIsSet);
}

// Whether more ranks of this host may run on the cores of this rank than these are.
bool SharesItsCores(MPI_Comm host, int ranks_on_host) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof(mine), &mine) != 0) return false;
  std::vector<cpu_set_t> all(ranks_on_host);
  const int bytes = static_cast<int>(sizeof(mine));
  if (MPI_Allgather(&mine, bytes, MPI_BYTE, all.data(), bytes, MPI_BYTE, host) != MPI_SUCCESS) {
    return false;
  }
  const auto sharers = std::count_if(all.begin(), all.end(), [&](const cpu_set_t& theirs) {
    cpu_set_t both;
    CPU_AND(&both, &mine, &theirs);
    return CPU_COUNT(&both) > 0;
  });
  return sharers > CPU_COUNT(&mine);
}

class MpiSessionImpl : public MpiSession {
 public:
  MpiSessionImpl() {
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm host = MPI_COMM_NULL;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host) ==
        MPI_SUCCESS) {
      MPI_Comm_size(host, &ranks_on_host_);
      MPI_Comm_rank(host, &rank_on_host_);
      if (SharesItsCores(host, ranks_on_host_)) {
        waiting_ = Waiting::kSleeps;
        // Linux lets a sleep last 50 us longer unless told otherwise; threads made later inherit
        // it.
        prctl(PR_SET_TIMERSLACK, 1000UL);
      }
      MPI_Comm_free(&host);
    }
  }
  ~MpiSessionImpl() override { MPI_Finalize(); }

  std::unique_ptr<Communicator> World() override {
    MPI_Comm copy = MPI_COMM_NULL;
    CHECK_EQ(MPI_Comm_dup(MPI_COMM_WORLD, &copy), MPI_SUCCESS);
    return std::make_unique<MpiCommunicator>(copy, waiting_);
  }

  int ranks_on_host() const override { return ranks_on_host_; }
  int rank_on_host() const override { return rank_on_host_; }
  bool shares_cores() const override { return waiting_ == Waiting::kSleeps; }

 private:
  int ranks_on_host_ = 1, rank_on_host_ = 0;
  Waiting waiting_ = Waiting::kPolls;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Create(int* argc, char*** argv) {
  TuneOpenMpi();
  int provided = MPI_THREAD_SINGLE;
  RETURN_IF_ERROR(
      StatusOf(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread"));
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    return absl::FailedPreconditionError(
        absl::StrCat("MPI gives thread level ", provided, ", wanted MPI_THREAD_MULTIPLE (",
                     MPI_THREAD_MULTIPLE, "): another build of MPI is needed"));
  }
  return std::make_unique<MpiSessionImpl>();
}

}  // namespace sluice::parallel
