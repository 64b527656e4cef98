#include "parallel/nccl/nccl_session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "parallel/comm/device_communicator.h"
#include "parallel/nccl/create_session.h"
#include "parallel/nccl/nccl_communicator.h"

namespace sluice::parallel {
namespace {

using kernels::StreamRole;
using kernels::cuda::WatchedStream;

class NcclSessionImpl : public NcclSession {
 public:
  NcclSessionImpl(std::shared_ptr<const NcclLibrary> nccl, kernels::DeviceContext& device,
                  const NcclOptions& options)
      : rank_(std::move(nccl), device, options.scratch_bytes) {
    ForEachStream(
        [this](WatchedStream& stream) { stream.Watch([this] { return rank_.Check(); }); });
  }
  ~NcclSessionImpl() override {
    ForEachStream([](WatchedStream& stream) { stream.Watch(nullptr); });
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Wrap(std::unique_ptr<Communicator> host) override {
    if (host->size() == 1) return CreateDeviceCommunicator(std::move(host), rank_.device());
    return CreateNcclCommunicator(std::move(host), rank_);
  }
  std::string Describe() const override {
    return absl::StrCat("NCCL ", NcclVersionText(rank_.nccl().version), " (", rank_.nccl().name,
                        ")");
  }

 private:
  template <typename Work>
  void ForEachStream(const Work& work) {
    for (const StreamRole role : {StreamRole::kCompute, StreamRole::kComm, StreamRole::kCopy}) {
      // The streams of a CUDA device are of this type.
      work(static_cast<WatchedStream&>(rank_.device().stream(role)));
    }
  }

  NcclRank rank_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NcclSession>> CreateNcclSession(kernels::DeviceContext& device,
                                                               const NcclOptions& options) {
  CHECK(device.id().type == kernels::DeviceType::kCuda) << "NCCL moves tensors of GPUs";
  std::vector<std::string> names = options.libraries;
  if (names.empty()) names = {"libnccl.so.2", SLUICE_NCCL_LIBRARY};
  ASSIGN_OR_RETURN(auto nccl, NcclLibrary::Load(names));
  return std::make_unique<NcclSessionImpl>(std::move(nccl), device, options);
}

}  // namespace sluice::parallel
