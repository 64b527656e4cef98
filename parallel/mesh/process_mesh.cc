#include "parallel/mesh/process_mesh.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace sluice::parallel {

absl::StatusOr<ProcessMesh> ProcessMesh::Create(const MeshShape& shape, int world_size) {
  if (shape.pipe < 1 || shape.data < 1 || shape.expert < 1) {
    return absl::InvalidArgumentError(absl::StrCat("mesh: found pipe ", shape.pipe, ", data ",
                                                   shape.data, ", expert ", shape.expert,
                                                   ", wanted each at least 1"));
  }
  const int64_t product = int64_t{shape.pipe} * shape.data;
  if (product != world_size) {
    return absl::InvalidArgumentError(absl::StrCat("mesh: found pipe ", shape.pipe, " * data ",
                                                   shape.data, " = ", product,
                                                   ", wanted the number of ranks = ", world_size));
  }
  if (shape.data % shape.expert != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "mesh.expert: found ", shape.expert, ", wanted a divisor of mesh.data = ", shape.data));
  }
  return ProcessMesh(shape);
}

int ProcessMesh::size(Axis axis) const {
  switch (axis) {
    case Axis::kPipe:
      return shape_.pipe;
    case Axis::kData:
      return shape_.data;
    case Axis::kExpertData:
      return shape_.data / shape_.expert;
    case Axis::kExpert:
      return shape_.expert;
  }
  return 1;
}

int ProcessMesh::coordinate(Axis axis, int rank) const {
  CHECK(rank >= 0 && rank < world_size()) << rank << " of " << world_size();
  const int data = rank % shape_.data;
  switch (axis) {
    case Axis::kPipe:
      return rank / shape_.data;
    case Axis::kData:
      return data;
    case Axis::kExpertData:
      return data / shape_.expert;
    case Axis::kExpert:
      return data % shape_.expert;
  }
  return 0;
}

// The group's rank with coordinate 0 on the axis.
int ProcessMesh::ColorOf(Axis axis, int rank) const {
  const int place = coordinate(axis, rank);
  switch (axis) {
    case Axis::kPipe:
      return rank - place * shape_.data;
    case Axis::kData:
      return rank - place;
    case Axis::kExpertData:
      return rank - place * shape_.expert;
    case Axis::kExpert:
      return rank - place;
  }
  return rank;
}

std::vector<int> ProcessMesh::GroupOf(Axis axis, int rank) const {
  const int color = ColorOf(axis, rank);
  std::vector<int> group;
  for (int other = 0; other < world_size(); ++other) {
    if (ColorOf(axis, other) == color) group.push_back(other);
  }
  return group;
}

std::string ProcessMesh::ToString() const {
  return absl::StrCat("pipe ", shape_.pipe, " x data ", shape_.data, " (expert_data ",
                      size(Axis::kExpertData), " x expert ", shape_.expert, ")");
}

}  // namespace sluice::parallel
