#include "kernels/core/crc32c.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace sluice {
namespace {

using Bytes = std::vector<uint8_t>;

uint32_t Of(const Bytes& bytes) { return Crc32c(bytes.data(), bytes.size()); }

// RFC 3720, appendix B.4.
TEST(Crc32c, EqualsTheVectorsOfRfc3720) {
  EXPECT_EQ(Of(Bytes(32, 0x00)), 0x8a9136aau);
  EXPECT_EQ(Of(Bytes(32, 0xff)), 0x62a8ab43u);
  Bytes up(32), down(32);
  for (int i = 0; i < 32; ++i) {
    up[i] = static_cast<uint8_t>(i);
    down[i] = static_cast<uint8_t>(31 - i);
  }
  EXPECT_EQ(Of(up), 0x46dd794eu);
  EXPECT_EQ(Of(down), 0x113fdb5cu);
  const Bytes iscsi_read = {0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0,    0, 0, 0, 0,
                            0x14, 0,    0, 0, 0, 0, 4, 0, 0,    0, 0, 0x14, 0, 0, 0, 0x18,
                            0x28, 0,    0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0,    0, 0, 0, 0};
  EXPECT_EQ(Of(iscsi_read), 0xd9963a56u);
}

TEST(Crc32c, OfNothingIsZero) { EXPECT_EQ(Crc32c(nullptr, 0), 0u); }

TEST(Crc32c, DoesNotDependOnHowTheBytesAreCut) {
  Bytes bytes(301);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 37 + 11);
  const uint32_t whole = Of(bytes);
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    const uint32_t first = Crc32c(bytes.data(), cut);
    EXPECT_EQ(ExtendCrc32c(first, bytes.data() + cut, bytes.size() - cut), whole) << cut;
  }
}

TEST(Crc32c, TheTableAgreesWithTheInstruction) {
  Bytes bytes(67);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 101 + 3);
  for (size_t begin = 0; begin < 9; ++begin)
    for (size_t end = begin; end <= bytes.size(); ++end)
      EXPECT_EQ(internal::ExtendCrc32cByTable(7, bytes.data() + begin, end - begin),
                ExtendCrc32c(7, bytes.data() + begin, end - begin));
}

}  // namespace
}  // namespace sluice
