// Collectives by NCCL. Sums are not NCCL's: the order in which its rings and trees add depends on
// the algorithm, the channels and the topology that it finds, so two layouts of one run, or two
// machines, would give other bits. Here NCCL moves the parts (grouped sends and receives, as many
// bytes as a ring's reduce-scatter) and a kernel adds them in ascending rank order.
#include "parallel/nccl/nccl_communicator.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops/reduce_rows.h"
#include "parallel/comm/arguments.h"
#include "parallel/comm/device_communicator.h"
#include "parallel/nccl/nccl_lanes.h"

namespace sluice::parallel {
namespace {

using kernels::DType;
using kernels::cuda::CudaStream;

// Up to here AllReduce sends everything to everybody: one round of messages instead of two.
constexpr int64_t kSmallReduceBytes = int64_t{64} << 10;

struct Part {
  char* data = nullptr;
  int64_t bytes = 0;
};

kernels::Reduction ReductionOf(ReduceOp op) {
  if (op == ReduceOp::kSum) return kernels::Reduction::kSum;
  return op == ReduceOp::kMax ? kernels::Reduction::kMax : kernels::Reduction::kMin;
}

char* BytesOf(const ConstTensorView& view) {
  return static_cast<char*>(const_cast<void*>(view.raw_data()));  // sends do not write
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, NcclRank& rank, ncclComm_t comm)
      : host_(std::move(host)),
        rank_(rank),
        comm_(comm),
        size_(host_->size()),
        sends_(size_),
        receives_(size_),
        lanes_(rank, *host_) {}
  ~NcclCommunicator() override { rank_.Close(comm_); }

  int rank() const override { return host_->rank(); }
  int size() const override { return size_; }

  absl::Status AllReduce(TensorView data, ReduceOp op, Stream& stream) override {
    if (IsOnHost(data)) return host_->AllReduce(data, op, stream);
    CheckAllReduce(data, device().id());
    const int64_t n = data.num_elements(), width = static_cast<int64_t>(SizeOf(data.dtype()));
    const int64_t piece = std::min(n, std::max<int64_t>(size_, rank_.scratch_bytes() / width));
    for (int64_t begin = 0; begin < n; begin += piece) {
      const int64_t count = std::min(piece, n - begin);
      const TensorView part(BytesOf(data) + begin * width, data.dtype(), {count}, device().id());
      RETURN_IF_ERROR(AllReducePiece(part, op, stream));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(ConstTensorView in, TensorView out, Stream& stream) override {
    if (IsOnHost(out)) return host_->AllGather(in, out, stream);
    CheckAllGather(in, out, size_, device().id());
    if (in.bytes() == 0) return rank_.Check();
    return Called(nccl().AllGather(in.raw_data(), out.raw_mutable_data(), in.bytes(), ncclUint8,
                                   comm_, CudaStream::From(stream).handle()),
                  "all-gather");
  }

  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op,
                             Stream& stream) override {
    if (IsOnHost(out)) return host_->ReduceScatter(in, out, op, stream);
    CheckReduceScatter(in, out, size_, device().id());
    const int64_t n = out.num_elements(), width = static_cast<int64_t>(SizeOf(out.dtype()));
    const int64_t piece =
        std::min(n, std::max<int64_t>(1, rank_.scratch_bytes() / (width * size_)));
    for (int64_t begin = 0; begin < n; begin += piece) {
      const int64_t count = std::min(piece, n - begin);
      for (int p = 0; p < size_; ++p) {
        sends_[p] = {BytesOf(in) + (p * n + begin) * width, count * width};
      }
      const TensorView sum(BytesOf(out) + begin * width, out.dtype(), {count}, device().id());
      RETURN_IF_ERROR(ReceiveAndReduce(sum, op, stream));
    }
    return absl::OkStatus();
  }

  absl::Status AllToAll(ConstTensorView in, std::span<const int64_t> send_rows, TensorView out,
                        std::span<const int64_t> receive_rows, Stream& stream) override {
    if (IsOnHost(out)) return host_->AllToAll(in, send_rows, out, receive_rows, stream);
    CheckAllToAll(in, send_rows, out, receive_rows, size_, device().id());
    const int64_t row_bytes = in.extent(1) * static_cast<int64_t>(SizeOf(in.dtype()));
    char *from = BytesOf(in), *to = BytesOf(out);
    for (int p = 0; p < size_; ++p) {
      sends_[p] = {from, send_rows[p] * row_bytes};
      receives_[p] = {to, receive_rows[p] * row_bytes};
      from += sends_[p].bytes;
      to += receives_[p].bytes;
    }
    return Exchange(stream);
  }

  absl::Status Broadcast(TensorView data, int root, Stream& stream) override {
    if (IsOnHost(data)) return host_->Broadcast(data, root, stream);
    CheckContiguous(data, device().id());
    CheckPeer(root, size_);
    if (data.bytes() == 0) return rank_.Check();
    return Called(nccl().Broadcast(data.raw_data(), data.raw_mutable_data(), data.bytes(),
                                   ncclUint8, root, comm_, CudaStream::From(stream).handle()),
                  "broadcast");
  }

  absl::Status Connect(std::span<const std::pair<int, int>> pairs) override {
    return lanes_.Connect(pairs);
  }
  absl::Status Send(ConstTensorView data, int peer, int tag, Stream& stream) override {
    CheckPeer(peer, size_);
    if (IsOnHost(data)) return host_->Send(data, peer, tag, stream);
    CheckContiguous(data, device().id());
    return lanes_.Send(data, peer, tag, stream);
  }
  absl::Status Receive(TensorView data, int peer, int tag, Stream& stream) override {
    CheckPeer(peer, size_);
    if (IsOnHost(data)) return host_->Receive(data, peer, tag, stream);
    CheckContiguous(data, device().id());
    return lanes_.Receive(data, peer, tag, stream);
  }

  absl::Status Barrier() override { return host_->Barrier(); }
  absl::StatusOr<std::vector<std::string>> GatherBytes(const std::string& bytes) override {
    return host_->GatherBytes(bytes);
  }
  absl::StatusOr<std::string> BroadcastBytes(const std::string& bytes, int root) override {
    return host_->BroadcastBytes(bytes, root);
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, host_->Split(color, key));
    if (part->size() == 1) return CreateDeviceCommunicator(std::move(part), device());
    return CreateNcclCommunicator(std::move(part), rank_);
  }
  void Abort(const absl::Status& why) override { host_->Abort(why); }

 private:
  static bool IsOnHost(const ConstTensorView& view) { return view.device() == kernels::DeviceId{}; }
  const NcclLibrary& nccl() const { return rank_.nccl(); }
  kernels::DeviceContext& device() { return rank_.device(); }
  absl::Status Called(ncclResult_t code, absl::string_view what) const {
    return nccl().StatusOf(code, absl::StrCat(what, " of ", size_, " ranks"), comm_);
  }

  // Sends sends_[p] to and receives receives_[p] from every p, as one call; to itself by copying.
  // An empty part is no message, so both sides must agree on what is empty.
  absl::Status Exchange(Stream& stream) {
    RETURN_IF_ERROR(rank_.Check());
    const cudaStream_t handle = CudaStream::From(stream).handle();
    CopyHere(sends_[rank()], receives_[rank()], stream);
    ncclResult_t first = nccl().GroupStart();
    const auto note = [&](ncclResult_t code) {
      if (first == ncclSuccess) first = code;
    };
    for (int p = 0; p < size_ && first == ncclSuccess; ++p) {
      if (p == rank()) continue;
      const Part &send = sends_[p], &receive = receives_[p];
      if (send.bytes > 0) note(nccl().Send(send.data, send.bytes, ncclUint8, p, comm_, handle));
      if (receive.bytes > 0) {
        note(nccl().Recv(receive.data, receive.bytes, ncclUint8, p, comm_, handle));
      }
    }
    note(nccl().GroupEnd());
    return Called(first, "exchange");
  }

  void CopyHere(const Part& from, const Part& to, Stream& stream) {
    CHECK_EQ(from.bytes, to.bytes) << "from rank " << rank() << " to itself";
    if (from.bytes == 0 || from.data == to.data) return;
    device().Copy(ConstTensorView(from.data, DType::kU8, {from.bytes}, device().id()),
                  TensorView(to.data, DType::kU8, {to.bytes}, device().id()), stream);
  }

  // sum = what every rank sends here (sends_ is set), in rank order.
  absl::Status ReceiveAndReduce(const TensorView& sum, ReduceOp op, Stream& stream) {
    const int64_t bytes = static_cast<int64_t>(sum.bytes());
    RETURN_IF_ERROR(TakeScratch(bytes * size_, stream));
    const TensorView rows = scratch_.View(sum.dtype(), {size_, sum.num_elements()});
    for (int p = 0; p < size_; ++p) receives_[p] = {BytesOf(rows) + p * bytes, bytes};
    RETURN_IF_ERROR(Exchange(stream));
    kernels::ReduceRows(stream, {.rows = rows, .y = sum, .reduction = ReductionOf(op)});
    stream.Record(scratch_used_);
    return absl::OkStatus();
  }

  // Rank p reduces elements [n p / P, n (p + 1) / P) and then sends them to all; few elements
  // everybody reduces. Both ways add in rank order, so they give the same bits.
  absl::Status AllReducePiece(const TensorView& data, ReduceOp op, Stream& stream) {
    const int64_t n = data.num_elements(), width = static_cast<int64_t>(SizeOf(data.dtype()));
    const bool small = n * width * size_ <= kSmallReduceBytes;
    const auto part_of = [&](int p) {
      const int64_t begin = small ? 0 : n * p / size_, end = small ? n : n * (p + 1) / size_;
      return Part{BytesOf(data) + begin * width, (end - begin) * width};
    };
    const Part mine = part_of(rank());
    for (int p = 0; p < size_; ++p) sends_[p] = part_of(p);
    const TensorView sum(mine.data, data.dtype(), {mine.bytes / width}, device().id());
    RETURN_IF_ERROR(ReceiveAndReduce(sum, op, stream));
    if (small) return absl::OkStatus();
    for (int p = 0; p < size_; ++p) {
      sends_[p] = mine;
      receives_[p] = part_of(p);
    }
    return Exchange(stream);
  }

  // scratch_ for this stream, once whatever uses it on another is done.
  absl::Status TakeScratch(int64_t bytes, Stream& stream) {
    stream.Wait(scratch_used_);
    if (static_cast<int64_t>(scratch_.size()) >= bytes) return absl::OkStatus();
    RETURN_IF_ERROR(stream.Synchronize());
    scratch_ = kernels::Buffer();  // first, so that both are never held
    ASSIGN_OR_RETURN(scratch_, device().Allocate(static_cast<size_t>(bytes),
                                                 kernels::MemoryTag::kCommunication));
    return absl::OkStatus();
  }

  const std::unique_ptr<Communicator> host_;
  NcclRank& rank_;
  const ncclComm_t comm_;
  const int size_;
  std::vector<Part> sends_, receives_;  // [P], arguments of Exchange
  kernels::Buffer scratch_;             // [P, ...] what a reduction receives
  kernels::cuda::CudaEvent scratch_used_;
  NcclLanes lanes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> CreateNcclCommunicator(
    std::unique_ptr<Communicator> host, NcclRank& rank) {
  // Whoever fails tells the others by an empty id.
  absl::StatusOr<ncclUniqueId> made = absl::UnavailableError("rank 0 could not make an NCCL id");
  std::string bytes;
  if (host->rank() == 0) {
    made = rank.MakeId();
    if (made.ok()) bytes.assign(made->internal, sizeof(made->internal));
  }
  ASSIGN_OR_RETURN(bytes, host->BroadcastBytes(bytes, 0));
  if (bytes.size() != sizeof(ncclUniqueId)) return made.status();
  ncclUniqueId id;
  std::copy(bytes.begin(), bytes.end(), id.internal);
  ASSIGN_OR_RETURN(ncclComm_t comm, rank.Open(id, host->size(), host->rank()));
  return std::make_unique<NcclCommunicator>(std::move(host), rank, comm);
}

}  // namespace sluice::parallel
