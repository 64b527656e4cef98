// The functions of libnccl.so.2 that Sluice calls. What is not here is not found by its name, and
// so is an error where the library is loaded.
#include <nccl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <mutex>
#include <random>

#include "tests/cuda_double/nccl/nccl_comm.h"

using namespace sluice::cuda_double;  // NOLINT: this file is the outside of that namespace

namespace {

using Lock = std::lock_guard<std::mutex>;

constexpr char kIdMark[] = "/sluice-nccl-double-";

// What a thread has said since its last ncclGroupStart.
struct Group {
  int depth = 0;
  ncclResult_t first_error = ncclSuccess;
  std::vector<Call> calls;
};
Group& ThisGroup() {
  thread_local Group group;
  return group;
}
std::string& LastError() {
  thread_local std::string text;
  return text;
}

ncclResult_t Misuse(ncclResult_t code, const std::string& why) {
  LastError() = why;
  std::fprintf(stderr, "nccl double: %s\n", why.c_str());
  if (ThisGroup().depth > 0 && ThisGroup().first_error == ncclSuccess) {
    ThisGroup().first_error = code;
  }
  return code;
}

size_t SizeOf(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    default:
      return 0;
  }
}

// One operation a communicator: all its calls must be on one stream.
ncclResult_t Launch(std::vector<Call> calls) {
  std::vector<Call> joined;
  for (Call& call : calls) {
    Call* found = nullptr;
    for (Call& other : joined) found = other.comm == call.comm ? &other : found;
    if (found == nullptr) {
      joined.push_back(std::move(call));
      continue;
    }
    if (found->stream != call.stream) {
      return Misuse(ncclInvalidUsage, "one group, one communicator, two streams: not modelled");
    }
    for (Transfer& transfer : call.transfers) found->transfers.push_back(transfer);
  }
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  for (Call& call : joined) {
    if (Enqueue(runtime, std::move(call)) != cudaSuccess) return ncclUnhandledCudaError;
  }
  return ncclSuccess;
}

ncclResult_t EndGroup() {
  Group& group = ThisGroup();
  if (group.depth == 0) return Misuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  if (--group.depth > 0) return ncclSuccess;
  {
    const Lock lock(Runtime::Get().mutex());
    Runtime::Get().RefuseWaiting(nullptr);
  }
  const ncclResult_t first_error = std::exchange(group.first_error, ncclSuccess);
  std::vector<Call> calls = std::exchange(group.calls, {});
  return first_error == ncclSuccess ? Launch(std::move(calls)) : first_error;
}

// "" or what is wrong with the arguments that all calls share.
std::string WhyNot(ncclComm_t comm, int peer, const void* data, size_t bytes) {
  if (comm == nullptr) return "a call without a communicator";
  if (comm->state->is_aborted) return "a call on a communicator that was aborted";
  if (peer < 0 || peer >= comm->state->group->num_ranks()) {
    return "rank " + std::to_string(peer) + " of a group of " +
           std::to_string(comm->state->group->num_ranks());
  }
  Runtime& runtime = Runtime::Get();
  const Lock lock(runtime.mutex());
  const bool is_device = runtime.memory().IsKnown(data, MemoryKind::kDevice) ||
                         runtime.memory().IsKnown(data, MemoryKind::kManaged);
  return bytes == 0 || is_device ? "" : "a message that is not in device memory";
}

Transfer MakeTransfer(bool sends, int peer, const void* data, size_t count, ncclDataType_t type,
                      CallKind kind) {
  Transfer transfer;
  transfer.sends = sends;
  transfer.peer = peer;
  transfer.data = static_cast<char*>(const_cast<void*>(data));
  transfer.bytes = count * SizeOf(type);
  transfer.header = {.kind = kind, .dtype = static_cast<uint32_t>(type), .count = count};
  return transfer;
}

// Adds the transfers to the group; outside of one they are a group of their own.
ncclResult_t Add(ncclComm_t comm, cudaStream_t stream, std::vector<Transfer> transfers) {
  Call call = {.comm = comm->state, .stream = stream, .transfers = std::move(transfers)};
  if (ThisGroup().depth == 0) {
    std::vector<Call> alone;
    alone.push_back(std::move(call));
    return Launch(std::move(alone));
  }
  ThisGroup().calls.push_back(std::move(call));
  return ncclSuccess;
}

ncclResult_t AddOne(bool sends, const void* data, size_t count, ncclDataType_t type, int peer,
                    ncclComm_t comm, cudaStream_t stream) {
  if (SizeOf(type) == 0) return Misuse(ncclInvalidArgument, "a type that is not modelled");
  const std::string why = WhyNot(comm, peer, data, count * SizeOf(type));
  if (!why.empty()) return Misuse(ncclInvalidArgument, why);
  if (ThisGroup().depth == 0 && peer == comm->state->rank) {
    return Misuse(ncclInvalidUsage, "a message of a rank to itself, outside of a group");
  }
  return Add(comm, stream, {MakeTransfer(sends, peer, data, count, type, CallKind::kPointToPoint)});
}

void CopyHere(const void* from, void* to, size_t bytes, cudaStream_t stream) {
  if (from != to) cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  std::memset(id->internal, 0, sizeof(id->internal));
  std::snprintf(id->internal, sizeof(id->internal), "%s%d-%08x%08x", kIdMark,
                static_cast<int>(getpid()), random(), random());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank) {
  if (ThisGroup().depth > 0) {
    return Misuse(ncclInvalidUsage, "ncclCommInitRank in a group: not modelled");
  }
  const std::string name(id.internal, strnlen(id.internal, sizeof(id.internal)));
  if (name.rfind(kIdMark, 0) != 0) {
    return Misuse(ncclInvalidArgument, "an id that ncclGetUniqueId did not make");
  }
  std::string why;
  auto group = SharedGroup::Join(name, num_ranks, rank, &why);
  if (group == nullptr) return Misuse(ncclInvalidArgument, "ncclCommInitRank: " + why);
  auto state = std::make_shared<CommState>();
  state->group = std::move(group);
  state->rank = rank;
  *comm = new ncclComm{std::move(state)};
  return ncclSuccess;
}

// Waits for what it has enqueued.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return ncclSuccess;
  Runtime& runtime = Runtime::Get();
  {
    const Lock lock(runtime.mutex());
    if (comm->state->num_done < comm->state->num_enqueued) runtime.SynchronizeAll();
  }
  delete comm;
  return ncclSuccess;
}

// What waits ends; the others of the group learn of it.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    const Lock lock(Runtime::Get().mutex());
    comm->state->is_aborted = true;
    comm->state->group->Fail(comm->state->rank);
  }
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  const int failed = comm->state->group->failed_rank();
  *result = ncclSuccess;
  if (failed < 0) return ncclSuccess;
  *result = failed == comm->state->rank ? ncclInternalError : ncclRemoteError;
  if (failed != comm->state->rank) LastError() = "rank " + std::to_string(failed) + " is gone";
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t code) {
  switch (code) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t) { return LastError().c_str(); }

ncclResult_t ncclGroupStart() {
  if (ThisGroup().depth++ > 0) return ncclSuccess;
  const Lock lock(Runtime::Get().mutex());
  Runtime::Get().RefuseWaiting("the host waits between ncclGroupStart and ncclGroupEnd");
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() { return EndGroup(); }

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return AddOne(/*sends=*/true, data, count, type, peer, comm, stream);
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return AddOne(/*sends=*/false, data, count, type, peer, comm, stream);
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * SizeOf(type);
  std::string why = WhyNot(comm, 0, in, bytes);
  if (why.empty()) why = WhyNot(comm, 0, out, bytes);
  if (!why.empty()) return Misuse(ncclInvalidArgument, "ncclAllGather: " + why);
  const int rank = comm->state->rank;
  char* const parts = static_cast<char*>(out);
  CopyHere(in, parts + static_cast<size_t>(rank) * bytes, bytes, stream);
  std::vector<Transfer> transfers;
  for (int p = 0; p < comm->state->group->num_ranks(); ++p) {
    if (p == rank) continue;
    char* const part = parts + static_cast<size_t>(p) * bytes;
    transfers.push_back(MakeTransfer(true, p, in, count, type, CallKind::kAllGather));
    transfers.push_back(MakeTransfer(false, p, part, count, type, CallKind::kAllGather));
  }
  return Add(comm, stream, std::move(transfers));
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const std::string why = WhyNot(comm, root, out, count * SizeOf(type));
  if (!why.empty()) return Misuse(ncclInvalidArgument, "ncclBroadcast: " + why);
  std::vector<Transfer> transfers;
  if (comm->state->rank != root) {
    transfers.push_back(MakeTransfer(false, root, out, count, type, CallKind::kBroadcast));
    return Add(comm, stream, std::move(transfers));
  }
  CopyHere(in, out, count * SizeOf(type), stream);
  for (int p = 0; p < comm->state->group->num_ranks(); ++p) {
    if (p == root) continue;
    transfers.push_back(MakeTransfer(true, p, in, count, type, CallKind::kBroadcast));
  }
  return Add(comm, stream, std::move(transfers));
}

}  // extern "C"
