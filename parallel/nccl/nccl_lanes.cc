#include "parallel/nccl/nccl_lanes.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"

namespace sluice::parallel {
namespace {

using kernels::DType;
using kernels::cuda::CudaStream;

constexpr int kHeaderTag = 1 << 16;  // of the host's messages; callers' tags are smaller
constexpr int kSender = 0, kReceiver = 1;

}  // namespace

NcclLanes::~NcclLanes() {
  // What was sent and not yet received would wait for ever once an error has come.
  const bool works = rank_.Check().ok();
  for (auto& [peer, lane] : to_) {
    if (works) lane.stream->Synchronize().IgnoreError();
    rank_.Close(lane.comm);
  }
  for (auto& [peer, lane] : from_) rank_.Close(lane.comm);
}

// All ranks go through the pairs in one order, so the two of a pair always meet.
absl::Status NcclLanes::Connect(std::span<const std::pair<int, int>> pairs) {
  for (const auto& [from, to] : pairs) {
    const int me = host_.rank();
    if (from == to || (me != from && me != to)) continue;
    Lane& lane = me == from ? to_[to] : from_[from];
    if (lane.comm != nullptr) continue;
    ncclUniqueId id = {};
    const TensorView bytes(&id, DType::kU8, {static_cast<int64_t>(sizeof(id))});
    if (me == from) {
      ASSIGN_OR_RETURN(id, rank_.MakeId());
      RETURN_IF_ERROR(host_.Send(bytes, to, kHeaderTag, host_stream_));
      lane.stream = std::make_unique<kernels::cuda::WatchedStream>(rank_.device().id());
      lane.stream->Watch([this] { return rank_.Check(); });
    } else {
      RETURN_IF_ERROR(host_.Receive(bytes, from, kHeaderTag, host_stream_));
    }
    ASSIGN_OR_RETURN(lane.comm, rank_.Open(id, 2, me == from ? kSender : kReceiver));
  }
  return absl::OkStatus();
}

absl::Status NcclLanes::Send(const ConstTensorView& data, int peer, int tag, Stream& stream) {
  CHECK_LT(tag, kHeaderTag);
  const int64_t bytes = static_cast<int64_t>(data.bytes());
  Copy* copy = nullptr;
  if (bytes > 0) {
    ASSIGN_OR_RETURN(copy, FreeCopy(bytes));
    rank_.device().Copy(data, copy->bytes.View(data.dtype(), data.shape()), stream);
    stream.Record(copy->filled);
  }
  if (peer == host_.rank()) {
    if (copy != nullptr) copy->is_kept = true;
    kept_[peer].push_back({.tag = tag, .bytes = bytes, .copy = copy});
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(Lane * lane, LaneOf(to_, peer, "to"));
  int64_t header[] = {tag, bytes};
  RETURN_IF_ERROR(host_.Send(TensorView(header, DType::kI64, {2}), peer, kHeaderTag, host_stream_));
  if (bytes == 0) return absl::OkStatus();
  lane->stream->Wait(copy->filled);
  const void* from = copy->bytes.View(DType::kU8, {bytes}).raw_data();
  RETURN_IF_ERROR(rank_.nccl().StatusOf(
      rank_.nccl().Send(from, bytes, ncclUint8, kReceiver, lane->comm, lane->stream->handle()),
      absl::StrCat("sending ", bytes, " bytes to rank ", peer), lane->comm));
  lane->stream->Record(copy->done);
  return absl::OkStatus();
}

absl::Status NcclLanes::Receive(const TensorView& data, int peer, int tag, Stream& stream) {
  const int64_t bytes = static_cast<int64_t>(data.bytes());
  std::deque<Kept>& kept = kept_[peer];
  const auto has_tag = [&](const Kept& message) { return message.tag == tag; };
  while (true) {
    const auto found = std::find_if(kept.begin(), kept.end(), has_tag);
    if (found != kept.end()) {
      const Kept message = *found;
      kept.erase(found);
      return TakeKept(data, message, stream);
    }
    CHECK_NE(peer, host_.rank()) << "receives tag " << tag << " before sending: a deadlock";
    ASSIGN_OR_RETURN(Lane * lane, LaneOf(from_, peer, "from"));
    int64_t header[2];
    RETURN_IF_ERROR(
        host_.Receive(TensorView(header, DType::kI64, {2}), peer, kHeaderTag, host_stream_));
    if (header[0] != tag) {
      RETURN_IF_ERROR(Keep(*lane, peer, {.tag = header[0], .bytes = header[1]}, stream));
      continue;
    }
    CHECK_EQ(header[1], bytes) << "bytes from rank " << peer << " tag " << tag;
    if (bytes == 0) return absl::OkStatus();
    return rank_.nccl().StatusOf(
        rank_.nccl().Recv(data.raw_mutable_data(), bytes, ncclUint8, kSender, lane->comm,
                          CudaStream::From(stream).handle()),
        absl::StrCat("receiving ", bytes, " bytes from rank ", peer), lane->comm);
  }
}

absl::Status NcclLanes::Keep(Lane& lane, int peer, const Kept& header, Stream& stream) {
  Kept kept = header;
  if (kept.bytes > 0) {
    ASSIGN_OR_RETURN(kept.copy, FreeCopy(kept.bytes));
    kept.copy->is_kept = true;
    void* to = kept.copy->bytes.View(DType::kU8, {kept.bytes}).raw_mutable_data();
    RETURN_IF_ERROR(rank_.nccl().StatusOf(
        rank_.nccl().Recv(to, kept.bytes, ncclUint8, kSender, lane.comm,
                          CudaStream::From(stream).handle()),
        absl::StrCat("receiving ", kept.bytes, " bytes from rank ", peer), lane.comm));
    stream.Record(kept.copy->filled);
  }
  kept_[peer].push_back(kept);
  return absl::OkStatus();
}

absl::Status NcclLanes::TakeKept(const TensorView& data, const Kept& kept, Stream& stream) {
  CHECK_EQ(kept.bytes, static_cast<int64_t>(data.bytes())) << "bytes of tag " << kept.tag;
  if (kept.bytes == 0) return absl::OkStatus();
  stream.Wait(kept.copy->filled);
  rank_.device().Copy(kept.copy->bytes.View(data.dtype(), data.shape()), data, stream);
  stream.Record(kept.copy->done);
  kept.copy->is_kept = false;
  return absl::OkStatus();
}

absl::StatusOr<NcclLanes::Lane*> NcclLanes::LaneOf(std::map<int, Lane>& lanes, int peer,
                                                   const char* what) {
  RETURN_IF_ERROR(rank_.Check());
  const auto found = lanes.find(peer);
  CHECK(found != lanes.end()) << "no lane " << what << " rank " << peer << ": Connect names it";
  return &found->second;
}

// The smallest unused one that is large enough, else a new one.
absl::StatusOr<NcclLanes::Copy*> NcclLanes::FreeCopy(int64_t bytes) {
  Copy* best = nullptr;
  for (const auto& copy : copies_) {
    if (static_cast<int64_t>(copy->bytes.size()) < bytes || copy->is_kept) continue;
    if (best != nullptr && best->bytes.size() <= copy->bytes.size()) continue;
    if (kernels::cuda::IsDone(copy->done)) best = copy.get();
  }
  if (best != nullptr) return best;
  auto copy = std::make_unique<Copy>();
  ASSIGN_OR_RETURN(copy->bytes, rank_.device().Allocate(static_cast<size_t>(bytes),
                                                        kernels::MemoryTag::kCommunication));
  copies_.push_back(std::move(copy));
  return copies_.back().get();
}

}  // namespace sluice::parallel
