// The functions of libnccl that Sluice calls, found by name at run time: nothing links the library.
#pragma once

#include <nccl.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::parallel {

struct NcclLibrary {
  // The first of `names` that the loader finds. FAILED_PRECONDITION: none (each with why), one that
  // lacks a function, or a version that differs in the major number from nccl.h's or is older than
  // 2.13, which knows ncclGetLastError.
  static absl::StatusOr<std::shared_ptr<const NcclLibrary>> Load(
      const std::vector<std::string>& names);

  // One sentence: what was tried, what the library calls it, and what it last complained of.
  // UNAVAILABLE where a peer is gone, else INTERNAL.
  absl::Status StatusOf(ncclResult_t code, absl::string_view what, ncclComm_t comm) const;

  std::string name;
  int version = 0;  // 22809: 2.28.9

  decltype(&ncclGetVersion) GetVersion = nullptr;
  decltype(&ncclGetUniqueId) GetUniqueId = nullptr;
  decltype(&ncclCommInitRank) CommInitRank = nullptr;
  decltype(&ncclCommDestroy) CommDestroy = nullptr;
  decltype(&ncclCommAbort) CommAbort = nullptr;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError = nullptr;
  decltype(&ncclGetErrorString) GetErrorString = nullptr;
  decltype(&ncclGetLastError) GetLastError = nullptr;
  decltype(&ncclGroupStart) GroupStart = nullptr;
  decltype(&ncclGroupEnd) GroupEnd = nullptr;
  decltype(&ncclSend) Send = nullptr;
  decltype(&ncclRecv) Recv = nullptr;
  decltype(&ncclAllGather) AllGather = nullptr;
  decltype(&ncclBroadcast) Broadcast = nullptr;
};

// 22809 -> "2.28.9".
std::string NcclVersionText(int version);

}  // namespace sluice::parallel
