#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/vendor/cudnn_attention.h"
#include "kernels/vendor/libraries.h"

namespace sluice::kernels::vendor {
namespace {

FusedAttention FusedAttentionOf(const AttentionArgs& args) {
  return {.sequences = args.starts.extent(0) - 1,
          .tokens = args.sequence_length,
          .heads = args.q.extent(1),
          .qk_width = args.q.extent(2),
          .v_width = args.v.extent(2),
          .q_row = args.q.row_stride(),
          .k_row = args.k.row_stride(),
          .v_row = args.v.row_stride(),
          .o_row = args.o.row_stride()};
}

class CudnnForward : public cuda::AttentionLibrary {
 public:
  explicit CudnnForward(std::unique_ptr<Cudnn> cudnn) : cudnn_(std::move(cudnn)) {}

  bool Takes(const AttentionArgs& args) const override {
    const auto is_aligned = [](const ConstTensorView& view) {
      return reinterpret_cast<uint64_t>(view.raw_data()) % 16 == 0;
    };
    return args.q.dtype() == DType::kBF16 && args.q.extent(1) == args.k.extent(1) &&
           args.sequence_length > 0 && args.log_sum_exp.is_contiguous() && is_aligned(args.q) &&
           is_aligned(args.k) && is_aligned(args.v) && is_aligned(args.o) &&
           CheckFusedAttention(FusedAttentionOf(args)).ok();
  }

  absl::Status Attend(const AttentionArgs& args, cuda::CudaStream& stream) override {
    return cudnn_->Run(FusedAttentionOf(args), args.scale,
                       {.q = args.q.raw_data(),
                        .k = args.k.raw_data(),
                        .v = args.v.raw_data(),
                        .o = args.o.raw_mutable_data(),
                        .log_sum_exp = args.log_sum_exp.mutable_data<float>()},
                       stream);
  }

  std::string Name() const override { return absl::StrCat("cuDNN ", cudnn_->Version()); }

 private:
  std::unique_ptr<Cudnn> cudnn_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<cuda::AttentionLibrary>> CreateAttentionLibrary() {
  ASSIGN_OR_RETURN(auto cudnn, Cudnn::Create());
  return std::make_unique<CudnnForward>(std::move(cudnn));
}

}  // namespace sluice::kernels::vendor
