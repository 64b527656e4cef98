// One token at a time on one rank, with a cache: the normalised latents and rotated keys of MLA
// (its absorbed form, DeepSeek-V2 report section 2.1.2), keys and values of grouped-query
// attention.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/loop/rank_model.h"

namespace sluice::trainer {

class Decoder {
 public:
  // `model` holds the whole model (a mesh of one rank) and outlives the decoder. Sequences of up to
  // max_positions tokens.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(RankModel& model, int64_t max_positions);
  virtual ~Decoder() = default;

  // Appends a token; returns the logits [V] of the next, valid until the next call. OUT_OF_RANGE
  // after max_positions tokens.
  virtual absl::StatusOr<std::span<const float>> Step(int32_t token) = 0;
  virtual int64_t position() const = 0;  // tokens so far
};

}  // namespace sluice::trainer
