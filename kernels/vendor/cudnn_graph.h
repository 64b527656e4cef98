// cuDNN's functions and descriptors, as far as a graph of products, pointwise operations and
// reductions needs them. Not for use outside this folder.
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/vendor/library.h"

namespace sluice::kernels::vendor {

struct CudnnFunctions {
  decltype(&cudnnCreate) Create = nullptr;
  decltype(&cudnnDestroy) Destroy = nullptr;
  decltype(&cudnnSetStream) SetStream = nullptr;
  decltype(&cudnnGetVersion) GetVersion = nullptr;
  decltype(&cudnnGetErrorString) GetErrorString = nullptr;
  decltype(&cudnnBackendCreateDescriptor) CreateDescriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) DestroyDescriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) SetAttribute = nullptr;
  decltype(&cudnnBackendGetAttribute) GetAttribute = nullptr;
  decltype(&cudnnBackendFinalize) Finalize = nullptr;
  decltype(&cudnnBackendExecute) Execute = nullptr;

  absl::Status FindAll(const Library& library);
  absl::Status StatusOf(cudnnStatus_t code, absl::string_view what) const;
};

using Descriptor = cudnnBackendDescriptor_t;

// A tensor of rank 4.
struct TensorSpec {
  const char* name = "";
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  std::array<int64_t, 4> extents = {1, 1, 1, 1}, strides = {1, 1, 1, 1};
  bool is_virtual = true;    // between operations, never in memory
  bool is_by_value = false;  // a number of the host
};

// Owns descriptors and keeps the first error; after one, everything is refused.
class GraphBuilder {
 public:
  explicit GraphBuilder(const CudnnFunctions& cudnn) : cudnn_(cudnn) {}
  ~GraphBuilder();
  GraphBuilder(const GraphBuilder&) = delete;
  GraphBuilder& operator=(const GraphBuilder&) = delete;

  // A tensor has the next number, from 1; NumberOf gives it.
  Descriptor Tensor(const TensorSpec& spec);
  int64_t NumberOf(Descriptor tensor) const;
  // y = mode(x, b), or t ? x : b with BINARY_SELECT; `axis` of GEN_INDEX.
  struct PointwiseInputs {
    Descriptor x = nullptr, b = nullptr, t = nullptr;
    int64_t axis = -1;
  };
  void Pointwise(cudnnPointwiseMode_t mode, const PointwiseInputs& in, Descriptor y);
  void Product(Descriptor a, Descriptor b, Descriptor c);
  void Reduction(cudnnReduceTensorOp_t op, Descriptor x, Descriptor y);

  // Any other descriptor.
  Descriptor Make(cudnnBackendDescriptorType_t type, absl::string_view what);
  void Set(Descriptor descriptor, cudnnBackendAttributeName_t name,
           cudnnBackendAttributeType_t type, int64_t count, const void* values);
  void Set(Descriptor descriptor, cudnnBackendAttributeName_t name, Descriptor value) {
    Set(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
  }
  void Finalize(Descriptor descriptor);
  void Note(cudnnStatus_t code, absl::string_view what);

  const std::vector<Descriptor>& operations() const { return operations_; }
  int num_finalized() const { return num_finalized_; }
  const absl::Status& status() const { return status_; }

 private:
  const CudnnFunctions& cudnn_;
  std::vector<Descriptor> all_, tensors_, operations_;
  std::vector<std::string> names_;  // of all_
  int num_finalized_ = 0;
  absl::Status status_;
};

}  // namespace sluice::kernels::vendor
