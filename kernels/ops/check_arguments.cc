#include "kernels/ops/check_arguments.h"

#include <string>

namespace sluice::kernels {

void CheckTensor(const Stream& stream, absl::string_view name, const ConstTensorView& view,
                 Shape shape, DType dtype) {
  CHECK_EQ(view.shape(), shape) << std::string(name);
  CHECK(view.dtype() == dtype) << std::string(name) << " is " << NameOf(view.dtype()).data()
                               << ", wanted " << NameOf(dtype).data();
  CHECK(view.device() == stream.device()) << std::string(name) << " lies on another device";
  CHECK(!view.is_null() || view.num_elements() == 0) << std::string(name) << " is null";
  CHECK(view.shape().rank() > 1 || view.is_contiguous()) << std::string(name) << " is strided";
}

DType CheckFloat(absl::string_view name, const ConstTensorView& view) {
  CHECK(view.dtype() == DType::kF32 || view.dtype() == DType::kBF16)
      << std::string(name) << " is " << NameOf(view.dtype()).data() << ", wanted f32 or bf16";
  return view.dtype();
}

}  // namespace sluice::kernels
