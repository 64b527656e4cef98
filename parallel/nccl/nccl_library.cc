#include "parallel/nccl/nccl_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::parallel {
namespace {

constexpr int kOldestVersion = 21300;

template <typename Function>
absl::Status Find(void* handle, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(handle, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("NCCL: the library has no ", name));
}

absl::Status FindAll(void* handle, NcclLibrary& nccl) {
  RETURN_IF_ERROR(Find(handle, "ncclGetVersion", &nccl.GetVersion));
  RETURN_IF_ERROR(Find(handle, "ncclGetUniqueId", &nccl.GetUniqueId));
  RETURN_IF_ERROR(Find(handle, "ncclCommInitRank", &nccl.CommInitRank));
  RETURN_IF_ERROR(Find(handle, "ncclCommDestroy", &nccl.CommDestroy));
  RETURN_IF_ERROR(Find(handle, "ncclCommAbort", &nccl.CommAbort));
  RETURN_IF_ERROR(Find(handle, "ncclCommGetAsyncError", &nccl.CommGetAsyncError));
  RETURN_IF_ERROR(Find(handle, "ncclGetErrorString", &nccl.GetErrorString));
  RETURN_IF_ERROR(Find(handle, "ncclGetLastError", &nccl.GetLastError));
  RETURN_IF_ERROR(Find(handle, "ncclGroupStart", &nccl.GroupStart));
  RETURN_IF_ERROR(Find(handle, "ncclGroupEnd", &nccl.GroupEnd));
  RETURN_IF_ERROR(Find(handle, "ncclSend", &nccl.Send));
  RETURN_IF_ERROR(Find(handle, "ncclRecv", &nccl.Recv));
  RETURN_IF_ERROR(Find(handle, "ncclAllGather", &nccl.AllGather));
  return Find(handle, "ncclBroadcast", &nccl.Broadcast);
}

}  // namespace

std::string NcclVersionText(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

absl::StatusOr<std::shared_ptr<const NcclLibrary>> NcclLibrary::Load(
    const std::vector<std::string>& names) {
  std::string tried;
  for (const std::string& name : names) {
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* why = dlerror();
      absl::StrAppend(&tried, tried.empty() ? "" : "; ", why == nullptr ? name : why);
      continue;
    }
    // Stays loaded: the library has threads of its own.
    auto nccl = std::make_shared<NcclLibrary>();
    nccl->name = name;
    RETURN_IF_ERROR(FindAll(handle, *nccl));
    RETURN_IF_ERROR(
        nccl->StatusOf(nccl->GetVersion(&nccl->version), "asking its version", nullptr));
    if (nccl->version < kOldestVersion || nccl->version / 10000 != NCCL_MAJOR) {
      return absl::FailedPreconditionError(
          absl::StrCat("NCCL: ", name, ": found version ", NcclVersionText(nccl->version),
                       ", wanted ", NcclVersionText(kOldestVersion), " or later of major version ",
                       NCCL_MAJOR, ", which this build was made for"));
    }
    return nccl;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("compute.collectives nccl: no NCCL library can be loaded (", tried,
                   "); install it or put its folder into LD_LIBRARY_PATH, or use host"));
}

absl::Status NcclLibrary::StatusOf(ncclResult_t code, absl::string_view what,
                                   ncclComm_t comm) const {
  if (code == ncclSuccess) return absl::OkStatus();
  std::string text = absl::StrCat("NCCL: ", what, ": ", GetErrorString(code));
  const char* last = GetLastError(comm);
  std::string detail = last == nullptr ? "" : last;
  while (!detail.empty() && detail.back() == '\n') detail.pop_back();
  for (char& c : detail) {
    if (c == '\n') c = ' ';
  }
  if (!detail.empty()) absl::StrAppend(&text, " (", detail, ")");
  return code == ncclRemoteError ? absl::UnavailableError(text) : absl::InternalError(text);
}

}  // namespace sluice::parallel
