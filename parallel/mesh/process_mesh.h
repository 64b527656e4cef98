// Which rank is what. Pure arithmetic on rank numbers: no communication, so a thousand ranks fit on
// a laptop.
//
// World = pipe x data. `data` counts the replicas of the dense layers; `expert` of them (expert
// divides data) share one set of experts, so the same ranks seen by the experts are pipe x
// expert_data x expert with expert_data = data / expert.
//   rank = pipe_coordinate * data + data_coordinate,  data_coordinate = expert_data_coordinate *
//   expert + expert_coordinate
// so that the ranks of one expert group are neighbours (one node on a cluster).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice::parallel {

enum class Axis : uint8_t { kPipe, kData, kExpertData, kExpert };

struct MeshShape {
  int pipe = 1, data = 1, expert = 1;
};

class ProcessMesh {
 public:
  // INVALID_ARGUMENT when a size is below 1, pipe * data != world_size, or expert does not divide
  // data; the message has the product.
  static absl::StatusOr<ProcessMesh> Create(const MeshShape& shape, int world_size);

  const MeshShape& shape() const { return shape_; }
  int world_size() const { return shape_.pipe * shape_.data; }
  int size(Axis axis) const;
  int coordinate(Axis axis, int rank) const;
  // The ranks that differ from `rank` in `axis` only, ascending; contains `rank`.
  std::vector<int> GroupOf(Axis axis, int rank) const;
  // A number that is equal for exactly the ranks of one group along `axis`: the colour of a
  // communicator split.
  int ColorOf(Axis axis, int rank) const;
  std::string ToString() const;  // "pipe 2 x data 2 (expert_data 1 x expert 2)"

 private:
  explicit ProcessMesh(const MeshShape& shape) : shape_(shape) {}
  MeshShape shape_;
};

}  // namespace sluice::parallel
