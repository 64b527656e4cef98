
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/turn_scales.h"
#include "kernels/vendor/cublaslt_matmul.h"
#include "kernels/vendor/libraries.h"

namespace sluice::kernels::vendor {
namespace {

using cuda::HopperMatmulArgs;
using cuda::MatmulOperands;
using cuda::MatmulOutput;

absl::StatusOr<DenseProduct> ProductOf(const HopperMatmulArgs& args) {
  const bool by_columns = args.shape.operands == MatmulOperands::kBF16Columns;
  const int64_t a_row = by_columns ? args.shape.m : args.shape.k;
  const int64_t b_row = by_columns ? args.shape.n : args.shape.k;
  return DenseProductOf(args.shape, args.output == MatmulOutput::kBF16 ? DType::kBF16 : DType::kF32,
                        args.output == MatmulOutput::kAddToF32,
                        {.a = args.a_stride == 0 ? a_row : args.a_stride,
                         .b = args.b_stride == 0 ? b_row : args.b_stride,
                         .c = args.c_stride});
}

bool IsAligned(const void* data) { return reinterpret_cast<uint64_t>(data) % 16 == 0; }

class CublasLtDense : public cuda::DenseLibrary {
 public:
  explicit CublasLtDense(std::unique_ptr<CublasLt> lt) : lt_(std::move(lt)) {}
  ~CublasLtDense() override { cudaFree(scales_); }

  bool Takes(const HopperMatmulArgs& args) const override {
    return IsAligned(args.a) && IsAligned(args.b) && IsAligned(args.c) && ProductOf(args).ok();
  }

  absl::Status Multiply(const HopperMatmulArgs& args, cuda::CudaStream& stream) override {
    ASSIGN_OR_RETURN(const DenseProduct product, ProductOf(args));
    DensePointers pointers = {.a = args.a, .b = args.b, .c = args.c};
    if (product.operands == DType::kE4M3) RETURN_IF_ERROR(LayOut(args, stream, pointers));
    return lt_->Run(product, pointers, stream);
  }

  std::string Name() const override { return absl::StrCat("cuBLASLt ", lt_->Version()); }

 private:
  // The scales as the library reads them, in memory of our own: a's turned, b's rows filled up.
  absl::Status LayOut(const HopperMatmulArgs& args, cuda::CudaStream& stream,
                      DensePointers& pointers) {
    const int64_t steps = NumScaleTiles(args.shape.k), blocks = NumScaleTiles(args.shape.n);
    const int64_t row = BlockScaleRow(args.shape.k), of_a = steps * args.shape.m;
    RETURN_IF_ERROR(Grow(static_cast<size_t>(of_a + blocks * row) * sizeof(float), stream));
    cuda::TurnScales(stream, {.from = args.a_scales,
                              .to = scales_,
                              .rows = args.shape.m,
                              .columns = steps,
                              .from_row = args.a_scale_row,
                              .from_column = args.a_scale_step});
    pointers.a_scales = scales_;
    pointers.b_scales = args.b_scales;
    if (row == steps && IsAligned(args.b_scales)) return absl::OkStatus();
    float* of_b = scales_ + of_a;  // m is a multiple of 4, so this is one of 16 bytes
    pointers.b_scales = of_b;
    const size_t bytes = static_cast<size_t>(steps) * sizeof(float);
    return cuda::StatusOf(
        cudaMemcpy2DAsync(of_b, static_cast<size_t>(row) * sizeof(float), args.b_scales, bytes,
                          bytes, static_cast<size_t>(blocks), cudaMemcpyDeviceToDevice,
                          stream.handle()),
        "copying scales");
  }

  // In the order of the stream, so that products under way keep what they read.
  absl::Status Grow(size_t bytes, cuda::CudaStream& stream) {
    if (bytes <= capacity_) return absl::OkStatus();
    if (scales_ != nullptr) {
      RETURN_IF_ERROR(cuda::StatusOf(cudaFreeAsync(scales_, stream.handle()), "freeing scales"));
    }
    scales_ = nullptr, capacity_ = 0;
    void* memory = nullptr;
    RETURN_IF_ERROR(
        cuda::StatusOf(cudaMallocAsync(&memory, bytes, stream.handle()), "memory for scales"));
    RETURN_IF_ERROR(cuda::StatusOf(cudaMemsetAsync(memory, 0, bytes, stream.handle()), "clearing"));
    scales_ = static_cast<float*>(memory), capacity_ = bytes;
    return absl::OkStatus();
  }

  std::unique_ptr<CublasLt> lt_;
  float* scales_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<cuda::DenseLibrary>> CreateDenseLibrary() {
  ASSIGN_OR_RETURN(auto lt, CublasLt::Create());
  return std::make_unique<CublasLtDense>(std::move(lt));
}

}  // namespace sluice::kernels::vendor
