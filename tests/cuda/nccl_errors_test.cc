// What goes wrong between GPUs, under mpirun with two ranks: each rule that the double of NCCL
// holds is broken once, and the rank that did nothing wrong gets an error in place of waiting for
// ever.
#include <dlfcn.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/device.h"
#include "kernels/cuda/watched_stream.h"
#include "parallel/nccl/nccl_rank.h"
#include "tests/support/mpi_world.h"

namespace sluice::testing {
namespace {

using kernels::DType;
using kernels::cuda::WatchedStream;
using parallel::NcclLibrary;
using parallel::NcclRank;
using ::testing::HasSubstr;

class NcclErrors : public ::testing::Test {
 protected:
  void SetUp() override {
    if (World().size() != 2) GTEST_SKIP() << "two ranks break these rules";
    Double<void (*)()>("cuda_double_reset")();
    auto device = kernels::DeviceContext::Create({.type = kernels::DeviceType::kCuda});
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
    auto library = NcclLibrary::Load({"libnccl.so.2"});
    ASSERT_TRUE(library.ok()) << library.status();
    rank_ = std::make_unique<NcclRank>(*library, *device_, 1 << 16);
    auto id = rank_->MakeId();
    ASSERT_TRUE(id.ok());
    auto bytes = World().BroadcastBytes(std::string(id->internal, sizeof(id->internal)), 0);
    ASSERT_TRUE(bytes.ok());
    std::copy(bytes->begin(), bytes->end(), id->internal);
    auto comm = rank_->Open(*id, 2, World().rank());
    ASSERT_TRUE(comm.ok()) << comm.status();
    comm_ = *comm;
    auto buffer = device_->Allocate(1024, kernels::MemoryTag::kScratch);
    ASSERT_TRUE(buffer.ok());
    buffer_ = *std::move(buffer);
  }
  void TearDown() override {
    if (device_ == nullptr) return;
    Double<void (*)()>("cuda_double_reset")();
    buffer_ = {};
    if (rank_ != nullptr) rank_->Close(comm_);
    device_.reset();
    Double<void (*)()>("cuda_double_reset")();
  }
  template <typename Function>
  static Function Double(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  }
  static std::string Report() { return Double<const char* (*)()>("cuda_double_report")(); }

  WatchedStream& stream() {
    return static_cast<WatchedStream&>(device_->stream(kernels::StreamRole::kCompute));
  }
  void* data() { return buffer_.View(DType::kU8, {1}).raw_mutable_data(); }
  const NcclLibrary& nccl() { return rank_->nccl(); }
  ncclResult_t Send(const void* from, size_t count) {
    return nccl().Send(from, count, ncclFloat32, 1, comm_, stream().handle());
  }
  ncclResult_t Receive(size_t count) {
    return nccl().Recv(data(), count, ncclFloat32, 0, comm_, stream().handle());
  }

  std::unique_ptr<kernels::DeviceContext> device_;
  std::unique_ptr<NcclRank> rank_;
  ncclComm_t comm_ = nullptr;
  kernels::Buffer buffer_;
};

TEST_F(NcclErrors, CountsThatDoNotMatchEndBothRanks) {
  if (World().rank() == 0) {
    stream().Watch([this] { return rank_->Check(); });
    ASSERT_EQ(Send(data(), 10), ncclSuccess);
    const absl::Status status = stream().Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 is gone"));
    stream().Watch(nullptr);
  } else {
    ASSERT_EQ(Receive(12), ncclSuccess);
    EXPECT_FALSE(stream().Synchronize().ok());
    EXPECT_THAT(Report(), HasSubstr("waits for a message of 12 elements"));
    EXPECT_THAT(Report(), HasSubstr("which sends a message of 10 elements"));
  }
}

TEST_F(NcclErrors, ARankThatBreaksOffIsAnErrorOfItsPeer) {
  if (World().rank() == 0) {
    stream().Watch([this] { return rank_->Check(); });
    ASSERT_EQ(nccl().Recv(data(), 4, ncclFloat32, 1, comm_, stream().handle()), ncclSuccess);
    EXPECT_EQ(stream().Synchronize().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(rank_->Check().code(), absl::StatusCode::kUnavailable) << "the error stays";
    stream().Watch(nullptr);
  } else {
    EXPECT_EQ(nccl().CommAbort(comm_), ncclSuccess);
    rank_.reset();  // forgets it
  }
}

TEST_F(NcclErrors, TheHostMayNotWaitInsideOfAGroup) {
  ASSERT_EQ(nccl().GroupStart(), ncclSuccess);
  EXPECT_FALSE(stream().Synchronize().ok());
  EXPECT_EQ(nccl().GroupEnd(), ncclSuccess);
  EXPECT_THAT(Report(), HasSubstr("between ncclGroupStart and ncclGroupEnd"));
}

TEST_F(NcclErrors, MessagesLieInDeviceMemory) {
  float here[10] = {};
  const ncclResult_t code = Send(here, 10);
  EXPECT_EQ(code, ncclInvalidArgument);
  const std::string text(nccl().StatusOf(code, "sending", comm_).message());
  EXPECT_EQ(text, "NCCL: sending: invalid argument (a message that is not in device memory)");
}

TEST_F(NcclErrors, ARankThatIsNotThere) {
  EXPECT_EQ(nccl().Send(data(), 1, ncclFloat32, 2, comm_, stream().handle()), ncclInvalidArgument);
}

TEST_F(NcclErrors, AMessageToItselfNeedsAGroup) {
  EXPECT_EQ(nccl().Send(data(), 1, ncclFloat32, World().rank(), comm_, stream().handle()),
            ncclInvalidUsage);
}

TEST_F(NcclErrors, AMessagePastTheEndOfItsMemory) {
  if (World().rank() == 0) {
    ASSERT_EQ(Send(data(), 300), ncclSuccess);
    EXPECT_FALSE(stream().Synchronize().ok());
    EXPECT_THAT(Report(), HasSubstr("176 past the end of an allocation of 1024 bytes"));
  }
}

}  // namespace
}  // namespace sluice::testing
