#include "parallel/mesh/process_mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

namespace sluice::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Axis kAllAxes[] = {Axis::kPipe, Axis::kData, Axis::kExpertData, Axis::kExpert};

ProcessMesh Make(const MeshShape& shape) {
  return ProcessMesh::Create(shape, shape.pipe * shape.data).value();
}

TEST(ProcessMesh, RanksOfAnExpertGroupAreNeighbours) {
  const ProcessMesh mesh = Make({.pipe = 2, .data = 6, .expert = 3});
  EXPECT_THAT(mesh.GroupOf(Axis::kExpert, 7), ElementsAre(6, 7, 8));
  EXPECT_THAT(mesh.GroupOf(Axis::kExpertData, 7), ElementsAre(7, 10));
  EXPECT_THAT(mesh.GroupOf(Axis::kData, 7), ElementsAre(6, 7, 8, 9, 10, 11));
  EXPECT_THAT(mesh.GroupOf(Axis::kPipe, 7), ElementsAre(1, 7));
  EXPECT_EQ(mesh.ToString(), "pipe 2 x data 6 (expert_data 2 x expert 3)");
}

class ProcessMeshOf : public ::testing::TestWithParam<MeshShape> {};

TEST_P(ProcessMeshOf, CoordinatesNameARank) {
  const ProcessMesh mesh = Make(GetParam());
  EXPECT_EQ(mesh.size(Axis::kExpertData) * mesh.size(Axis::kExpert), mesh.size(Axis::kData));
  for (int rank = 0; rank < mesh.world_size(); ++rank) {
    for (const Axis axis : kAllAxes) {
      EXPECT_GE(mesh.coordinate(axis, rank), 0);
      EXPECT_LT(mesh.coordinate(axis, rank), mesh.size(axis));
    }
    EXPECT_EQ(rank, mesh.coordinate(Axis::kPipe, rank) * mesh.size(Axis::kData) +
                        mesh.coordinate(Axis::kData, rank));
    EXPECT_EQ(mesh.coordinate(Axis::kData, rank),
              mesh.coordinate(Axis::kExpertData, rank) * mesh.size(Axis::kExpert) +
                  mesh.coordinate(Axis::kExpert, rank));
  }
}

// A rank's group is found here by comparing coordinates, not colours.
TEST_P(ProcessMeshOf, AGroupDiffersInItsAxisOnly) {
  const ProcessMesh mesh = Make(GetParam());
  const auto others_equal = [&](Axis axis, int a, int b) {
    const auto same = [&](Axis which) {
      return mesh.coordinate(which, a) == mesh.coordinate(which, b);
    };
    switch (axis) {
      case Axis::kPipe:
        return same(Axis::kData);
      case Axis::kData:
        return same(Axis::kPipe);
      case Axis::kExpertData:
        return same(Axis::kPipe) && same(Axis::kExpert);
      case Axis::kExpert:
        return same(Axis::kPipe) && same(Axis::kExpertData);
    }
    return false;
  };
  for (const Axis axis : kAllAxes) {
    for (int rank = 0; rank < mesh.world_size(); ++rank) {
      const std::vector<int> group = mesh.GroupOf(axis, rank);
      std::vector<int> wanted;
      for (int other = 0; other < mesh.world_size(); ++other) {
        if (others_equal(axis, rank, other)) wanted.push_back(other);
        EXPECT_EQ(mesh.ColorOf(axis, rank) == mesh.ColorOf(axis, other),
                  others_equal(axis, rank, other));
      }
      EXPECT_EQ(group, wanted);
      ASSERT_EQ(static_cast<int>(group.size()), mesh.size(axis));
      // A communicator split by colour with the rank as key has the coordinate as its rank.
      EXPECT_EQ(group[mesh.coordinate(axis, rank)], rank);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ProcessMeshOf,
                         ::testing::Values(MeshShape{1, 1, 1}, MeshShape{3, 1, 1},
                                           MeshShape{1, 4, 1}, MeshShape{1, 4, 4},
                                           MeshShape{2, 4, 2}, MeshShape{3, 6, 3},
                                           MeshShape{2, 5, 5}, MeshShape{4, 8, 2}));

TEST(ProcessMesh, AThousandRanksAreOnlyArithmetic) {
  const ProcessMesh mesh = Make({.pipe = 16, .data = 128, .expert = 64});
  EXPECT_EQ(mesh.world_size(), 2048);
  EXPECT_EQ(mesh.GroupOf(Axis::kExpert, 2047).front(), 1984);
  EXPECT_EQ(mesh.coordinate(Axis::kPipe, 2047), 15);
}

TEST(ProcessMesh, WhatDoesNotMultiplyIsRefusedWithTheProduct) {
  const auto message = [](const MeshShape& shape, int world_size) {
    const auto mesh = ProcessMesh::Create(shape, world_size);
    EXPECT_EQ(mesh.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(mesh.status().message());
  };
  EXPECT_THAT(message({.pipe = 2, .data = 3}, 8), HasSubstr("= 6"));
  EXPECT_THAT(message({.pipe = 2, .data = 3}, 8), HasSubstr("8"));
  EXPECT_THAT(message({.pipe = 1, .data = 6, .expert = 4}, 6), HasSubstr("expert"));
  EXPECT_THAT(message({.pipe = 0, .data = 1}, 0), HasSubstr("at least 1"));
  EXPECT_THAT(message({.pipe = 1, .data = 1, .expert = -1}, 1), HasSubstr("at least 1"));
  // 65536 * 65537 is 65536 in 32 bits.
  EXPECT_THAT(message({.pipe = 65536, .data = 65537}, 65536), HasSubstr("4295032832"));
}

}  // namespace
}  // namespace sluice::parallel
