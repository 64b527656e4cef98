#include "kernels/vendor/cudnn_graph.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace sluice::kernels::vendor {
namespace {

constexpr cudnnDataType_t kArithmetic = CUDNN_DATA_FLOAT;

}  // namespace

absl::Status CudnnFunctions::FindAll(const Library& library) {
  RETURN_IF_ERROR(library.Find("cudnnCreate", &Create));
  RETURN_IF_ERROR(library.Find("cudnnDestroy", &Destroy));
  RETURN_IF_ERROR(library.Find("cudnnSetStream", &SetStream));
  RETURN_IF_ERROR(library.Find("cudnnGetVersion", &GetVersion));
  RETURN_IF_ERROR(library.Find("cudnnGetErrorString", &GetErrorString));
  RETURN_IF_ERROR(library.Find("cudnnBackendCreateDescriptor", &CreateDescriptor));
  RETURN_IF_ERROR(library.Find("cudnnBackendDestroyDescriptor", &DestroyDescriptor));
  RETURN_IF_ERROR(library.Find("cudnnBackendSetAttribute", &SetAttribute));
  RETURN_IF_ERROR(library.Find("cudnnBackendGetAttribute", &GetAttribute));
  RETURN_IF_ERROR(library.Find("cudnnBackendFinalize", &Finalize));
  return library.Find("cudnnBackendExecute", &Execute);
}

absl::Status CudnnFunctions::StatusOf(cudnnStatus_t code, absl::string_view what) const {
  if (code == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cuDNN: ", what, ": ", GetErrorString(code)));
}

GraphBuilder::~GraphBuilder() {
  for (auto descriptor = all_.rbegin(); descriptor != all_.rend(); ++descriptor) {
    cudnn_.DestroyDescriptor(*descriptor);
  }
}

void GraphBuilder::Note(cudnnStatus_t code, absl::string_view what) {
  if (status_.ok()) status_ = cudnn_.StatusOf(code, what);
}

Descriptor GraphBuilder::Make(cudnnBackendDescriptorType_t type, absl::string_view what) {
  Descriptor descriptor = nullptr;
  if (!status_.ok()) return descriptor;
  Note(cudnn_.CreateDescriptor(type, &descriptor), absl::StrCat("making ", what));
  if (descriptor != nullptr) {
    all_.push_back(descriptor);
    names_.emplace_back(what);
  }
  return descriptor;
}

void GraphBuilder::Set(Descriptor descriptor, cudnnBackendAttributeName_t name,
                       cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  if (!status_.ok()) return;
  Note(cudnn_.SetAttribute(descriptor, name, type, count, values),
       absl::StrCat("attribute ", static_cast<int>(name)));
}

void GraphBuilder::Finalize(Descriptor descriptor) {
  if (!status_.ok()) return;
  const auto place = std::find(all_.begin(), all_.end(), descriptor) - all_.begin();
  Note(cudnn_.Finalize(descriptor), absl::StrCat("finalising ", names_[place]));
  if (status_.ok()) ++num_finalized_;
}

Descriptor GraphBuilder::Tensor(const TensorSpec& spec) {
  const Descriptor tensor = Make(CUDNN_BACKEND_TENSOR_DESCRIPTOR, spec.name);
  tensors_.push_back(tensor);
  const int64_t number = static_cast<int64_t>(tensors_.size()), alignment = 16;
  Set(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &number);
  Set(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &spec.type);
  Set(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, spec.extents.data());
  Set(tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, spec.strides.data());
  Set(tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  Set(tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &spec.is_virtual);
  Set(tensor, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &spec.is_by_value);
  Finalize(tensor);
  return tensor;
}

int64_t GraphBuilder::NumberOf(Descriptor tensor) const {
  return std::find(tensors_.begin(), tensors_.end(), tensor) - tensors_.begin() + 1;
}

void GraphBuilder::Pointwise(cudnnPointwiseMode_t mode, const PointwiseInputs& in, Descriptor y) {
  const std::string what = absl::StrCat("pointwise operation ", static_cast<int>(mode));
  const Descriptor kind = Make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR, what);
  Set(kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  Set(kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &kArithmetic);
  if (in.axis >= 0) Set(kind, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &in.axis);
  Finalize(kind);
  const Descriptor operation = Make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, what);
  Set(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
  Set(operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, in.x);
  if (in.b != nullptr) Set(operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, in.b);
  if (in.t != nullptr) Set(operation, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, in.t);
  Set(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  Finalize(operation);
  operations_.push_back(operation);
}

void GraphBuilder::Product(Descriptor a, Descriptor b, Descriptor c) {
  const Descriptor kind = Make(CUDNN_BACKEND_MATMUL_DESCRIPTOR, "a product");
  Set(kind, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &kArithmetic);
  Finalize(kind);
  const Descriptor operation = Make(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "a product");
  Set(operation, CUDNN_ATTR_OPERATION_MATMUL_DESC, kind);
  Set(operation, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
  Set(operation, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
  Set(operation, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
  Finalize(operation);
  operations_.push_back(operation);
}

void GraphBuilder::Reduction(cudnnReduceTensorOp_t op, Descriptor x, Descriptor y) {
  const Descriptor kind = Make(CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "a reduction");
  Set(kind, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op);
  Set(kind, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &kArithmetic);
  Finalize(kind);
  const Descriptor operation = Make(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "a reduction");
  Set(operation, CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind);
  Set(operation, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
  Set(operation, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
  Finalize(operation);
  operations_.push_back(operation);
}

}  // namespace sluice::kernels::vendor
