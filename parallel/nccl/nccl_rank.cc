#include "parallel/nccl/nccl_rank.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::parallel {

absl::StatusOr<ncclUniqueId> NcclRank::MakeId() const {
  ncclUniqueId id;
  RETURN_IF_ERROR(nccl_->StatusOf(nccl_->GetUniqueId(&id), "making a unique id", nullptr));
  return id;
}

absl::StatusOr<ncclComm_t> NcclRank::Open(const ncclUniqueId& id, int num_ranks, int rank) {
  RETURN_IF_ERROR(Check());
  ncclComm_t comm = nullptr;
  RETURN_IF_ERROR(nccl_->StatusOf(nccl_->CommInitRank(&comm, num_ranks, id, rank),
                                  absl::StrCat("joining a group of ", num_ranks, " as rank ", rank),
                                  comm));
  open_.push_back(comm);
  return comm;
}

void NcclRank::Close(ncclComm_t comm) {
  const auto found = std::find(open_.begin(), open_.end(), comm);
  if (found == open_.end()) return;  // aborted
  open_.erase(found);
  nccl_->CommDestroy(comm);
}

absl::Status NcclRank::Check() {
  if (!failed_.ok()) return failed_;
  for (ncclComm_t comm : open_) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t code = nccl_->CommGetAsyncError(comm, &state);
    if (code != ncclSuccess) state = code;
    if (state == ncclSuccess || state == ncclInProgress) continue;
    failed_ = nccl_->StatusOf(state, "running what was enqueued", comm);
    break;
  }
  if (failed_.ok()) return failed_;
  for (ncclComm_t comm : open_) nccl_->CommAbort(comm);
  open_.clear();
  return failed_;
}

}  // namespace sluice::parallel
