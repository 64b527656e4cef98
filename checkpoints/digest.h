// A digest of a state that does not depend on its layout: neither on how tensors were cut into
// pieces, nor on who held them, nor on files. Two states with equal digests are taken to be equal;
// it finds accidents, not forgeries.
//
// The digest of a tensor is a pair of polynomials, so pieces can be digested apart and summed:
//   D_k = sum over words i of (w_i + 1) * r_k^(N - 1 - i)  modulo p = 2^61 - 1,   k = 0, 1
// w: the tensor's elements in row-major order as little-endian unsigned words - elements of 8 bytes
// are two words of 4, the lower first -, N how many there are. r_k: see digest.cc and FORMAT.md.
// (Polynomial hashing over a Mersenne prime: Carter and Wegman, "Universal classes of hash
// functions", 1979.)
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoints/reader.h"
#include "checkpoints/tensor_piece.h"

namespace sluice::checkpoints {

struct Digest {
  uint64_t a = 0, b = 0;         // each below 2^61 - 1
  std::string ToString() const;  // 32 hexadecimal digits
  friend bool operator==(const Digest&, const Digest&) = default;
};

// The share of the piece's elements in their tensor's digest; `data` holds piece.bytes() bytes. The
// piece must make sense (CheckPiece). An empty piece's share is zero. Any thread.
Digest DigestOfPiece(const TensorPiece& piece, const void* data);

// The digest of two disjoint sets of elements of one tensor. Exact and commutative, so ranks may
// add up their shares in any order.
Digest Sum(const Digest& x, const Digest& y);

struct TensorDigest {
  std::string tensor, dtype;
  std::vector<int64_t> shape;
  Digest digest;
};

struct StateDigest {
  int64_t step = 0;
  std::vector<TensorDigest> tensors;                       // ascending by name
  std::vector<std::pair<std::string, std::string>> state;  // RunMetadata.state, ascending
  Digest total;                                            // of all the above

  // One line a tensor, one for each entry of the metadata's state and the step, and the total.
  std::string ToString() const;
};

// Fills in `total` (and sorts), from the rest.
void ComputeTotal(StateDigest& digest);

// Reads a whole checkpoint, a few chunks at a time. Errors as CheckpointReader::Read.
absl::StatusOr<StateDigest> DigestOfCheckpoint(CheckpointReader& reader);

}  // namespace sluice::checkpoints
