// What the tests of the matrix products share: a device, all targets, and a packed operand.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "kernels/core/device.h"
#include "kernels/cpu/target.h"
#include "kernels/ops/matmul.h"
#include "tests/support/tensor.h"

namespace sluice::kernels {

// A CPU device of `num_threads` threads and its compute stream.
struct TestDevice {
  explicit TestDevice(int num_threads = 1) {
    auto created = DeviceContext::Create({.num_threads = num_threads});
    CHECK(created.ok()) << created.status().ToString();
    context = *std::move(created);
  }
  Stream& stream() { return context->stream(StreamRole::kCompute); }
  std::unique_ptr<DeviceContext> context;
};

// Calls body() once under each target of this machine, with the target's name in every failure.
template <typename Body>
void ForEachTarget(const Body& body) {
  const cpu::Target before = cpu::CurrentTarget();
  for (cpu::Target target : cpu::AvailableTargets()) {
    SCOPED_TRACE("target " + std::string(NameOf(target)));
    cpu::SelectTarget(target);
    body();
  }
  cpu::SelectTarget(before);
}

// A packed matrix and the memory under it.
struct TestPacked {
  TestPacked(Stream& stream, const testing::Tensor& b, bool transpose, DType dtype) {
    const int rank = b.shape().rank();
    const int64_t rows = b.shape()[rank - 2], columns = b.shape()[rank - 1];
    matrix.num_matrices = rank == 3 ? b.shape()[0] : 1;
    matrix.k = transpose ? columns : rows;
    matrix.n = transpose ? rows : columns;
    matrix.dtype = dtype;
    const size_t bytes = PackedBytes(matrix.num_matrices, matrix.k, matrix.n, dtype);
    storage = testing::Tensor({static_cast<int64_t>(bytes)}, DType::kU8);
    matrix.storage = storage;
    PackMatrix(stream, {.b = b, .transpose = transpose, .packed = matrix});
  }
  testing::Tensor storage;
  PackedMatrix matrix;
};

}  // namespace sluice::kernels
