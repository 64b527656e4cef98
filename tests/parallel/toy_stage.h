// A stage small enough to check by hand: y[t, h] = a[h] x[t, h] + b[h].   T tokens, H width
//
// The first stage makes its own input from the microbatch's number, the last one has the loss
// 1/2 sum y^2. Phases alternate between the compute and the communication stream, and each looks at
// what the one before it left, so with threaded streams a missing wait is a race. What the executor
// says it is done with is overwritten with NaN, in stream order.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/cpu_stream.h"
#include "parallel/comm/decorators.h"
#include "parallel/pipeline/stage.h"
#include "tests/support/tensor.h"

namespace sluice::parallel::testing {

inline constexpr int64_t kTokens = 3, kWidth = 6;

using ::sluice::testing::Tensor;
using Row = std::vector<float>;

// One definition of the arithmetic for stage and reference, compiled once.
struct ToyMath {
  [[gnu::noinline]] static void Input(int microbatch, float* x) {
    for (int64_t i = 0; i < kTokens * kWidth; ++i) {
      x[i] = 0.37f + 0.11f * static_cast<float>((microbatch * 7 + i * 5) % 13);
    }
  }
  [[gnu::noinline]] static void Parameters(int stage, float* a, float* b) {
    for (int64_t h = 0; h < kWidth; ++h) {
      a[h] = 0.9f + 0.03f * static_cast<float>((stage * 5 + h) % 7);
      b[h] = -0.2f + 0.07f * static_cast<float>((stage * 3 + h) % 5);
    }
  }
  // Columns [begin, end).
  [[gnu::noinline]] static void Forward(const float* a, const float* b, const float* x, float* y,
                                        int64_t begin, int64_t end) {
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t h = begin; h < end; ++h) y[t * kWidth + h] = a[h] * x[t * kWidth + h] + b[h];
    }
  }
  [[gnu::noinline]] static void BackwardInput(const float* a, const float* dy, float* dx,
                                              int64_t begin, int64_t end) {
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t h = begin; h < end; ++h) dx[t * kWidth + h] = a[h] * dy[t * kWidth + h];
    }
  }
  [[gnu::noinline]] static void BackwardWeight(const float* x, const float* dy, float* da,
                                               float* db, int64_t begin, int64_t end) {
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t h = begin; h < end; ++h) {
        da[h] += dy[t * kWidth + h] * x[t * kWidth + h];
        db[h] += dy[t * kWidth + h];
      }
    }
  }
  [[gnu::noinline]] static double Loss(const float* y) {
    double sum = 0.0;
    for (int64_t i = 0; i < kTokens * kWidth; ++i) sum += 0.5 * double{y[i]} * y[i];
    return sum;
  }
};

struct ToyGradients {
  Row da = Row(kWidth, 0.0f), db = Row(kWidth, 0.0f);
  friend bool operator==(const ToyGradients&, const ToyGradients&) = default;
};

// What one training step of `num_stages` toy stages gives, in plain loops.
struct ToyStep {
  std::vector<double> losses;           // [microbatch]
  std::vector<ToyGradients> gradients;  // [stage], summed over microbatches in ascending order
};

inline ToyStep ToyReference(int num_stages, int first_microbatch, int end_microbatch) {
  ToyStep step;
  step.gradients.resize(num_stages);
  constexpr int64_t kElements = kTokens * kWidth;
  for (int m = first_microbatch; m < end_microbatch; ++m) {
    std::vector<Row> x(num_stages + 1, Row(kElements));
    Row a(kWidth), b(kWidth), dx(kElements);
    ToyMath::Input(m, x[0].data());
    for (int s = 0; s < num_stages; ++s) {
      ToyMath::Parameters(s, a.data(), b.data());
      ToyMath::Forward(a.data(), b.data(), x[s].data(), x[s + 1].data(), 0, kWidth);
    }
    step.losses.push_back(ToyMath::Loss(x[num_stages].data()));
    Row dy = x[num_stages];
    for (int s = num_stages - 1; s >= 0; --s) {
      ToyMath::Parameters(s, a.data(), b.data());
      ToyMath::BackwardInput(a.data(), dy.data(), dx.data(), 0, kWidth);
      ToyMath::BackwardWeight(x[s].data(), dy.data(), step.gradients[s].da.data(),
                              step.gradients[s].db.data(), 0, kWidth);
      dy = dx;
    }
  }
  return step;
}

class ToyStage : public Stage {
 public:
  // `log` receives "F2.5:0" for each phase as it is enqueued, if not null. num_phases divides
  // kWidth.
  ToyStage(int stage, int num_stages, int num_microbatches, int num_phases,
           kernels::DeviceContext& device, CallLog* log = nullptr)
      : stage_(stage),
        is_first_(stage == 0),
        is_last_(stage + 1 == num_stages),
        num_phases_(num_phases),
        device_(device),
        stream_(kernels::CpuStream::From(device.stream(kernels::StreamRole::kCompute))),
        log_(log),
        a_(kWidth),
        b_(kWidth),
        losses_(num_microbatches, 0.0),
        states_(num_microbatches) {
    ToyMath::Parameters(stage, a_.data(), b_.data());
  }

  int NumPhases() const override { return num_phases_; }
  kernels::StreamRole RoleOf(int phase) const override {
    return phase % 2 == 0 ? kernels::StreamRole::kCompute : kernels::StreamRole::kComm;
  }

  absl::Status Forward(int microbatch, int phase) override {
    if (microbatch == failing_microbatch_) return absl::UnavailableError("the toy broke");
    State& state = Enter("F", microbatch, phase);
    EXPECT_EQ(state.next_forward++, phase);
    if (phase == 0) {
      EXPECT_EQ(state.num_inputs, is_first_ ? 0 : 1) << Name(microbatch);
      float* x = state.x.view().mutable_data<float>();
      if (is_first_) StreamOf(phase).Run([=](auto&) { ToyMath::Input(microbatch, x); });
    }
    const float* x = state.x.view().data<float>();
    float* y = state.y.view().mutable_data<float>();
    StreamOf(phase).Run([=, this, &state, begin = Begin(phase), end = Begin(phase + 1)](auto&) {
      EXPECT_EQ(state.phases_run++, phase);
      ToyMath::Forward(a_.data(), b_.data(), x, y, begin, end);
    });
    if (is_last_ && phase + 1 == num_phases_) {
      float* dy = state.dy.view().mutable_data<float>();
      double* loss = &losses_[microbatch];
      StreamOf(phase).Run([=](auto&) {
        *loss = ToyMath::Loss(y);
        std::copy(y, y + kTokens * kWidth, dy);
      });
    }
    return absl::OkStatus();
  }

  absl::Status BackwardInput(int microbatch, int phase) override {
    State& state = Enter("I", microbatch, phase);
    if (phase + 1 == num_phases_) {
      EXPECT_EQ(state.next_forward, num_phases_) << Name(microbatch);
      EXPECT_EQ(state.num_gradients, is_last_ ? 0 : 1) << Name(microbatch);
      state.next_input = phase;
    }
    EXPECT_EQ(state.next_input--, phase);
    const float* dy = state.dy.view().data<float>();
    float* dx = state.dx.view().mutable_data<float>();
    StreamOf(phase).Run([=, this, &state, begin = Begin(phase), end = Begin(phase + 1)](auto&) {
      EXPECT_EQ(--state.phases_run, phase);
      ToyMath::BackwardInput(a_.data(), dy, dx, begin, end);
    });
    return absl::OkStatus();
  }

  absl::Status BackwardWeight(int microbatch, int phase) override {
    State& state = Enter("W", microbatch, phase);
    EXPECT_LT(state.next_input, phase) << Name(microbatch);
    if (phase + 1 == num_phases_) state.next_weight = phase;
    EXPECT_EQ(state.next_weight--, phase);
    const float* x = state.x.view().data<float>();
    const float* dy = state.dy.view().data<float>();
    stream_.Run([=, this, begin = Begin(phase), end = Begin(phase + 1)](auto&) {
      ToyMath::BackwardWeight(x, dy, gradients_.da.data(), gradients_.db.data(), begin, end);
    });
    if (phase == 0) {
      Spoil(state.x);
      Spoil(state.dy);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<kernels::TensorView> InputActivation(int microbatch) override {
    EXPECT_FALSE(is_first_);
    ++states_[microbatch].num_inputs;
    return states_[microbatch].x.view();
  }
  absl::StatusOr<kernels::TensorView> OutputGradient(int microbatch) override {
    EXPECT_FALSE(is_last_);
    ++states_[microbatch].num_gradients;
    return states_[microbatch].dy.view();
  }
  kernels::ConstTensorView OutputActivation(int microbatch) override {
    EXPECT_FALSE(is_last_);
    EXPECT_EQ(states_[microbatch].next_forward, num_phases_);
    EXPECT_EQ(states_[microbatch].num_outputs_released, 0);
    return states_[microbatch].y.view();
  }
  kernels::ConstTensorView InputGradient(int microbatch) override {
    EXPECT_FALSE(is_first_);
    EXPECT_EQ(states_[microbatch].next_input, -1);
    EXPECT_EQ(states_[microbatch].num_inputs_released, 0);
    return states_[microbatch].dx.view();
  }
  void ReleaseOutputActivation(int microbatch) override {
    ++states_[microbatch].num_outputs_released;
    Spoil(states_[microbatch].y);
  }
  void ReleaseInputGradient(int microbatch) override {
    ++states_[microbatch].num_inputs_released;
    Spoil(states_[microbatch].dx);
  }

  // After the stream was synchronized: all buffers given back, once.
  void ExpectAllReleased(bool trained) const {
    for (const State& state : states_) {
      EXPECT_EQ(state.num_outputs_released, is_last_ ? 0 : state.next_forward > 0 ? 1 : 0);
      EXPECT_EQ(state.num_inputs_released, !is_first_ && trained && state.next_forward > 0 ? 1 : 0);
    }
  }
  void FailAt(int microbatch) { failing_microbatch_ = microbatch; }
  const ToyGradients& gradients() const { return gradients_; }
  double loss(int microbatch) const { return losses_[microbatch]; }

 private:
  struct State {
    Tensor x = Tensor({kTokens, kWidth}), y = Tensor({kTokens, kWidth});
    Tensor dy = Tensor({kTokens, kWidth}), dx = Tensor({kTokens, kWidth});
    int next_forward = 0, next_input = -2, next_weight = -2;
    int phases_run = 0;  // of the forward and not undone by the backward; in stream order
    int num_inputs = 0, num_gradients = 0, num_outputs_released = 0, num_inputs_released = 0;
  };

  kernels::CpuStream& StreamOf(int phase) {
    return kernels::CpuStream::From(device_.stream(RoleOf(phase)));
  }
  int64_t Begin(int phase) const { return kWidth / num_phases_ * phase; }
  std::string Name(int microbatch) const {
    return std::to_string(stage_) + "." + std::to_string(microbatch);
  }
  State& Enter(const char* what, int microbatch, int phase) {
    if (log_ != nullptr) log_->Add(what + Name(microbatch) + ":" + std::to_string(phase));
    return states_[microbatch];
  }
  void Spoil(const Tensor& tensor) {
    float* data = tensor.view().mutable_data<float>();
    stream_.Run([=](auto&) {
      std::fill(data, data + kTokens * kWidth, std::numeric_limits<float>::quiet_NaN());
    });
  }

  const int stage_;
  const bool is_first_, is_last_;
  const int num_phases_;
  kernels::DeviceContext& device_;
  kernels::CpuStream& stream_;  // of computing
  CallLog* const log_;
  Row a_, b_;
  ToyGradients gradients_;
  std::vector<double> losses_;
  std::vector<State> states_;
  int failing_microbatch_ = -1;
};

}  // namespace sluice::parallel::testing
