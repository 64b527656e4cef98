// wgmma: matrix products of a warpgroup, of tiles that descriptors name in shared memory (PTX
// ISA 9.0, section 9.7.15). Each warp computes its 16 of the 64 rows.
#include <array>
#include <cstdio>

#include "tests/cuda_double/exec/decode.h"
#include "tests/cuda_double/exec/formats.h"
#include "tests/cuda_double/exec/lanes.h"
#include "tests/cuda_double/exec/products.h"
#include "tests/cuda_double/exec/tensor_sum.h"

namespace sluice::cuda_double {
namespace {

constexpr int kRowBytes = 32;  // of K that one instruction contracts
constexpr int kRowsOfWarp = 16;
constexpr uint64_t kNonsense = 0x7fc0dead;  // in registers of a product under way

struct Descriptor {
  uint64_t start, leading, stride;
  Swizzle swizzle;
  int base_offset;
  bool is_transposed;  // M or N is contiguous in place of K
};

// Fields as in PTX ISA 9.0, "Matrix Descriptor Format". The leading dimension's is not read for
// swizzled K-major tiles.
Descriptor ReadDescriptor(uint64_t bits, bool is_transposed) {
  constexpr Swizzle kSwizzles[] = {Swizzle::kNone, Swizzle::k128, Swizzle::k64, Swizzle::k32};
  return {.start = (bits & 0x3fff) << 4,
          .leading = (bits >> 16 & 0x3fff) << 4,
          .stride = (bits >> 32 & 0x3fff) << 4,
          .swizzle = kSwizzles[bits >> 62],
          .base_offset = static_cast<int>(bits >> 49 & 7),
          .is_transposed = is_transposed};
}

// Where 16 bytes of a row of a K-major tile lie.
uint64_t PlaceOf(const Descriptor& tile, int row, int byte) {
  const uint64_t width = 16u << static_cast<int>(tile.swizzle);
  return Swizzled(tile.start + static_cast<uint64_t>(row / 8) * tile.stride +
                      static_cast<uint64_t>(row % 8) * width + static_cast<uint64_t>(byte),
                  tile.swizzle);
}

// Where element k of a row of a transposed tile lies: 64 rows are side by side in the 128 bytes of
// a k, eight k are a pattern; `stride` on are the next eight k, `leading` on the next 64 rows.
uint64_t TransposedPlaceOf(const Descriptor& tile, int row, int k) {
  return Swizzled(tile.start + static_cast<uint64_t>(row / 64) * tile.leading +
                      static_cast<uint64_t>(k / 8) * tile.stride +
                      static_cast<uint64_t>(k % 8 * 128 + row % 64 * 2),
                  tile.swizzle);
}

std::string CheckDescriptor(const Descriptor& tile) {
  if (tile.swizzle == Swizzle::kNone) return "a tile without swizzle is not modelled";
  if (tile.is_transposed && tile.swizzle != Swizzle::k128) {
    return "a transposed tile with another swizzle than of 128 bytes is not modelled";
  }
  const uint64_t rows = (1u << static_cast<int>(tile.swizzle)) - 1;
  if (tile.base_offset != 0) return "a tile with a base offset is not modelled";
  if ((tile.start >> 7 & rows) != 0) return "the tile does not start where its pattern does";
  return "";
}

bool HasARegisters(const Instruction& i) { return i.operands[1].kind == Operand::Kind::kVector; }
int Columns(const Instruction& i) { return 2 * static_cast<int>(i.operands[0].rows.size()); }

// The warp's rows of a, or all of b, as numbers: [rows][elements].
std::vector<float> ReadTile(const Block& block, const Instruction& i, const Descriptor& tile,
                            int first_row, int rows) {
  const bool is_fp8 = i.from_type == Type::kE4M3;
  const int element = is_fp8 ? 1 : 2;
  std::vector<float> values;
  for (int row = first_row; row < first_row + rows; ++row) {
    for (int k = 0; k < kRowBytes / element; ++k) {
      const uint64_t place = tile.is_transposed ? TransposedPlaceOf(tile, row, k)
                                                : PlaceOf(tile, row, k * element / 16 * 16) +
                                                      static_cast<uint64_t>(k * element % 16);
      const uint8_t* data = block.shared().data() + place;
      values.push_back(is_fp8 ? FromE4M3(data[0])
                              : FromBFloat16(static_cast<uint16_t>(data[0] | data[1] << 8)));
    }
  }
  return values;
}

// a out of the warp's registers, 16 x 16 of BF16 (PTX ISA 9.0, "Register Fragments for
// wgmma.mma_async.m64nNk16"): register r of a lane holds two neighbours of a row.
std::vector<float> ReadRegisters(Warp& warp, const std::vector<int>& rows) {
  std::vector<float> values(kRowsOfWarp * 16);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + r % 2 * 8, k = lane % 4 * 2 + r / 2 * 8;
      const auto pair = Get<uint32_t>(warp.Row(rows[static_cast<size_t>(r)])[lane]);
      values[static_cast<size_t>(row * 16 + k)] = FromBFloat16(static_cast<uint16_t>(pair));
      values[static_cast<size_t>(row * 16 + k + 1)] =
          FromBFloat16(static_cast<uint16_t>(pair >> 16));
    }
  }
  return values;
}

void Compute(const Block& block, Warp& warp, const Product& product) {
  const Instruction& i = *product.instruction;
  const int columns = Columns(i), first_row = warp.index % 4 * kRowsOfWarp;
  const size_t k = i.from_type == Type::kE4M3 ? 32 : 16;
  const std::vector<float> a =
      HasARegisters(i) ? ReadRegisters(warp, i.operands[1].rows)
                       : ReadTile(block, i, ReadDescriptor(product.a, product.transposes_a),
                                  first_row, kRowsOfWarp);
  const std::vector<float> b =
      ReadTile(block, i, ReadDescriptor(product.b, product.transposes_b), 0, columns);
  const Accumulator how = block.launch().accumulator;
  const TensorInstruction instruction =
      i.from_type == Type::kE4M3 ? TensorInstruction::kE4M3ByWarpgroup : TensorInstruction::kBF16;
  std::vector<float>& sums = warp.products.sums.at(i.operands[0].rows[0]);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int r = 0; r < columns / 2; ++r) {
      const int row = lane / 4 + (r / 2 % 2) * 8, column = r / 4 * 8 + lane % 4 * 2 + r % 2;
      float& sum = sums[static_cast<size_t>(r * kLanes + lane)];
      sum = TensorSum(product.adds ? sum : 0, &a[static_cast<size_t>(row) * k],
                      &b[static_cast<size_t>(column) * k], k, how, instruction);
    }
  }
}

void FinishOldest(const Block& block, Warp& warp) {
  for (ProductGroup& group : warp.products.groups) {
    if (group.is_done) continue;
    for (const Product& product : group.products) Compute(block, warp, product);
    group.is_done = true;
    return;
  }
}

bool CheckTransposedTile(const Context& c, const Descriptor& tile, int first_row, int rows) {
  for (int k = 0; k < kRowBytes / 2; ++k) {
    for (int row = first_row; row < first_row + rows; row += 8) {
      if (!c.block.CheckTensorRead(c, TransposedPlaceOf(tile, row, k), 16)) return false;
    }
  }
  return true;
}

bool CheckTile(const Context& c, const Descriptor& tile, int first_row, int rows) {
  const std::string why = CheckDescriptor(tile);
  if (!why.empty()) {
    c.block.Fail(c, 0, why);
    return false;
  }
  if (tile.is_transposed) return CheckTransposedTile(c, tile, first_row, rows);
  for (int row = first_row; row < first_row + rows; ++row) {
    for (int byte = 0; byte < kRowBytes; byte += 16) {
      if (!c.block.CheckTensorRead(c, PlaceOf(tile, row, byte), 16)) return false;
    }
  }
  return true;
}

// The same value in every lane; false after Fail.
bool Uniform(const Context& c, size_t operand, uint64_t& value) {
  const uint64_t* row = c.Source(operand);
  value = row[0];
  for (int lane = 1; lane < kLanes; ++lane) {
    if (row[lane] == value) continue;
    c.block.Fail(c, lane, "a descriptor or flag that differs between lanes");
    return false;
  }
  return true;
}

bool IsWholeWarp(const Context& c) {
  if (c.mask == 0xffffffffu) return true;
  c.block.Fail(c, FirstLane(c.mask), "not all lanes of the warp execute this together");
  return false;
}

// The flags after `adds`: not negated, and for BF16 which operands in shared memory are transposed.
bool ReadFlags(const Context& c, Product& product) {
  const size_t count = c.instruction.operands.size();
  for (size_t n = 4; n < count; ++n) {
    uint64_t value = 0;
    if (!Uniform(c, n, value)) return false;
    if (n < 6 && value != 1) {
      c.block.Fail(c, 0, "negated operands are not modelled");
      return false;
    }
    if (n < 6) continue;
    (n + 1 == count ? product.transposes_b : product.transposes_a) = value != 0;
  }
  return true;
}

// wgmma.mma_async {d}, a, b, adds, 1, 1 {, transposes a} {, transposes b}; a may be {registers}.
void RunProduct(const Context& c) {
  Product product{.instruction = &c.instruction, .pc = c.pc};
  const bool has_a_registers = HasARegisters(c.instruction);
  uint64_t adds = 0;
  if (!IsWholeWarp(c) || (!has_a_registers && !Uniform(c, 1, product.a)) ||
      !Uniform(c, 2, product.b) || !Uniform(c, 3, adds) || !ReadFlags(c, product))
    return;
  product.adds = (adds & 1) != 0;
  if (!has_a_registers && !CheckTile(c, ReadDescriptor(product.a, product.transposes_a),
                                     c.warp.index % 4 * kRowsOfWarp, kRowsOfWarp))
    return;
  if (!CheckTile(c, ReadDescriptor(product.b, product.transposes_b), 0, Columns(c.instruction)))
    return;
  ProductQueue& queue = c.warp.products;
  const std::vector<int>& rows = c.instruction.operands[0].rows;
  const auto [sums, is_new] = queue.sums.try_emplace(rows[0]);
  if (is_new) {
    for (int row : rows) {
      for (int lane = 0; lane < kLanes; ++lane) {
        sums->second.push_back(Get<float>(c.warp.Row(row)[lane]));
        c.warp.Row(row)[lane] = kNonsense;
      }
    }
  }
  queue.open.push_back(product);
}

void RunFence(const Context& c) { IsWholeWarp(c); }

void RunCommit(const Context& c) {
  if (!IsWholeWarp(c)) return;
  ProductQueue& queue = c.warp.products;
  queue.groups.push_back({.products = std::move(queue.open), .is_done = false});
  queue.open.clear();
  ++queue.num_committed;
  const Timing timing = c.block.launch().timing;
  if (timing == Timing::kEarly) FinishOldest(c.block, c.warp);
  while (timing == Timing::kRandom && c.block.random()() % 2 == 0) FinishOldest(c.block, c.warp);
}

bool IsUnderWay(const ProductQueue& queue, int first_row) {
  const auto uses = [&](const std::vector<Product>& products) {
    for (const Product& p : products) {
      if (p.instruction->operands[0].rows[0] == first_row) return true;
    }
    return false;
  };
  for (const ProductGroup& group : queue.groups) {
    if (uses(group.products)) return true;
  }
  return uses(queue.open);
}

// wgmma.wait_group n: all but the n newest groups are done.
void RunWait(const Context& c) {
  if (!IsWholeWarp(c)) return;
  ProductQueue& queue = c.warp.products;
  const size_t may_stay = Get<uint32_t>(c.Source(0)[0]);
  while (queue.groups.size() > may_stay) {
    if (!queue.groups.front().is_done) FinishOldest(c.block, c.warp);
    const ProductGroup group = std::move(queue.groups.front());
    queue.groups.pop_front();
    for (const Product& product : group.products) {
      const std::vector<int>& rows = product.instruction->operands[0].rows;
      const auto sums = queue.sums.find(rows[0]);
      if (sums == queue.sums.end() || IsUnderWay(queue, rows[0])) continue;
      for (size_t r = 0; r < rows.size(); ++r) {
        for (int lane = 0; lane < kLanes; ++lane) {
          c.warp.Row(rows[r])[lane] =
              Put<float>(sums->second[r * kLanes + static_cast<size_t>(lane)]);
        }
      }
      queue.sums.erase(sums);
    }
  }
  c.warp.known.clock[static_cast<size_t>(kTensorAgents + c.warp.index)] =
      queue.num_committed - static_cast<uint32_t>(queue.groups.size());
}

}  // namespace

void DecodeWarpgroup(Instruction& i, Modifiers& modifiers) {
  const int what = modifiers.TakeOneOf({"fence", "commit_group", "wait_group", "mma_async"});
  if (!modifiers.Take("sync") || !modifiers.Take("aligned")) return;
  if (what == 0) i.run = RunFence;
  if (what == 1) i.run = RunCommit;
  if (what == 2) i.run = RunWait;
  if (what != 3 || i.operands[0].kind != Operand::Kind::kVector) return;
  if (modifiers.TakeType() != Type::kF32) return;
  i.type = modifiers.TakeType();
  i.from_type = modifiers.TakeType();
  const bool is_fp8 = i.type == Type::kE4M3;
  if (i.type != i.from_type || (!is_fp8 && i.type != Type::kBF16)) return;
  const bool has_a_registers = HasARegisters(i);
  if (has_a_registers && (is_fp8 || i.operands[1].rows.size() != 4)) return;
  if (i.operands.size() != (is_fp8 ? 6u : has_a_registers ? 7u : 8u)) return;
  const int n = Columns(i);
  if (n < 8 || n > 256 || n % 8 != 0) return;
  if (modifiers.Take("m64n" + std::to_string(n) + (is_fp8 ? "k32" : "k16"))) i.run = RunProduct;
}

}  // namespace sluice::cuda_double
