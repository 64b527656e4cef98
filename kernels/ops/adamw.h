// AdamW (Loshchilov and Hutter 2019), gradient clipping's reductions.   n elements of a flat shard
#pragma once

#include "kernels/core/stream.h"
#include "kernels/core/tensor_view.h"

namespace sluice::kernels {

// With g = gradient_scale * gradient:  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
//   master -= lr * (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + weight_decay * master)
// in FP32; bf16 moments are rounded to nearest even after the update. value = master, rounded to
// its dtype.
struct AdamWArgs {
  TensorView master;         // [n] f32
  ConstTensorView gradient;  // [n] f32
  TensorView m;              // [n] f32 | bf16
  TensorView v;              // [n] dtype of m
  TensorView value = {};     // [n] bf16 | f32, or null; may be master
  float gradient_scale = 1.0f, learning_rate = 0.0f, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f,
        weight_decay = 0.0f;
  int64_t step = 1;  // counted from 1
};
void AdamW(Stream& stream, const AdamWArgs& args);

// *sum (+)= sum of x[i]^2 in FP64: blocks of 4096 elements, each in a fixed order; 256 neighbouring
// blocks added in ascending order; these sums added in ascending order. The result does not depend on the number of threads. A NaN or infinity in x
// shows in *sum.
struct SumSquaresArgs {
  ConstTensorView x;  // [n] f32
  TensorView sum;     // [1] f64
  bool accumulate = false;
  TensorView scratch;  // [ceil(n / 4096)] f64
};
void SumSquares(Stream& stream, const SumSquaresArgs& args);

}  // namespace sluice::kernels
