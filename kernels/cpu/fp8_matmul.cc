#include "kernels/cpu/fp8_matmul.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/cpu/matmul_layout.h"
#include "kernels/cpu/matmul_tasks.h"
#include "kernels/cpu/op_table.h"
#include "kernels/cpu/scratch.h"

#define SLUICE_TARGET_FILE "kernels/cpu/fp8_matmul-inl.h"
#include "kernels/cpu/foreach_target.h"

namespace sluice::kernels::cpu {

Fp8MatmulTable Fp8MatmulTableOf(Target target) { return SLUICE_TABLE_OF(kFp8MatmulTable, target); }

namespace {

// A product and the tasks it is cut into.
struct Fp8Product {
  Fp8Block block;
  BlockGrid grid;
  int64_t first_task = 0;
};

// Reused by every call on this thread; an op never runs inside another.
std::vector<Fp8Product>& ThreadProducts() {
  thread_local std::vector<Fp8Product> products;
  return products;
}

// The part of a product that task `index` of its grid computes.
Fp8Block PartOf(const Fp8Product& product, int64_t index) {
  Fp8Block block = product.block;
  const BlockGrid& grid = product.grid;
  const int64_t row_block = index % grid.row_blocks, column_block = index / grid.row_blocks;
  const int64_t row = block.rows * row_block / grid.row_blocks;
  const int64_t row_end = block.rows * (row_block + 1) / grid.row_blocks;
  const int64_t panels = NumPanels(block.columns);
  const int64_t column = panels * column_block / grid.column_blocks * kPanelColumns;
  const int64_t column_end =
      std::min(block.columns, panels * (column_block + 1) / grid.column_blocks * kPanelColumns);
  block.a += row * (block.a_transposed ? 1 : block.a_stride);
  block.a_scales += row * block.a_row_step;
  block.b += column;
  block.first_column += column;
  const int64_t c_bytes = block.output == MatmulOutput::kStoreBF16 ? 2 : 4;
  block.c = static_cast<char*>(block.c) + (row * block.c_stride + column) * c_bytes;
  block.rows = row_end - row;
  block.columns = column_end - column;
  return block;
}

void RunFp8Products(ThreadPool& pool, std::vector<Fp8Product>& products) {
  const Fp8MatmulTable& table = Table().fp8_matmul;
  int64_t total_rows = 0, num_tasks = 0;
  for (const Fp8Product& product : products) total_rows += product.block.rows;
  const int64_t wanted = pool.num_threads() == 1 ? 1 : 4 * pool.num_threads();
  for (Fp8Product& product : products) {
    MatmulBlock shape;  // what the cut depends on
    shape.rows = product.block.rows;
    shape.columns = product.block.columns;
    shape.k = product.block.k;
    shape.dtype = DType::kBF16;
    const int64_t share = CeilDiv(wanted * shape.rows, std::max<int64_t>(1, total_rows));
    product.grid =
        CutProduct(shape, table.tile_rows, std::max<int64_t>(1, share), pool.num_threads());
    product.first_task = num_tasks;
    num_tasks += product.grid.row_blocks * product.grid.column_blocks;
  }
  pool.ParallelFor(num_tasks, [&](int64_t task) {
    const auto after =
        std::upper_bound(products.begin(), products.end(), task,
                         [](int64_t t, const Fp8Product& p) { return t < p.first_task; });
    const Fp8Product& product = *(after - 1);
    const Fp8Block block = PartOf(product, task - product.first_task);
    thread_local Scratch scratch;
    table.multiply(block, scratch.Get<uint32_t>(static_cast<size_t>(table.scratch_words(block))));
  });
}

const uint8_t* CodesOf(const ConstTensorView& view, int64_t row) {
  return static_cast<const uint8_t*>(view.raw_data()) + row * view.row_stride();
}
const float* ScalesOf(const ConstTensorView& view, int64_t row) {
  return view.data<float>() + row * view.row_stride();
}
void* OutputRow(const TensorView& c, int64_t row) {
  return static_cast<char*>(c.raw_mutable_data()) +
         row * c.row_stride() * static_cast<int64_t>(SizeOf(c.dtype()));
}

// Rows of expert e.
std::pair<int64_t, int64_t> RowsOf(const ConstTensorView& offsets, int64_t e, int64_t rows) {
  if (offsets.is_null()) return {0, rows};
  return {offsets.data<int32_t>()[e], offsets.data<int32_t>()[e + 1]};
}

}  // namespace

void Fp8Matmul(ThreadPool& pool, const Fp8MatmulArgs& args) {
  std::vector<Fp8Product>& products = ThreadProducts();
  products.clear();
  const bool forward = args.direction == Fp8Direction::kForward;
  const ConstTensorView& codes = forward ? args.w.transposed_codes : args.w.codes;
  const ConstTensorView& scales = forward ? args.w.transposed_scales : args.w.scales;
  const int32_t* bounds = args.w.row_tiles.is_null() ? nullptr : args.w.row_tiles.data<int32_t>();
  for (int64_t e = 0; e < codes.extent(0); ++e) {
    const auto [begin, end] = RowsOf(args.offsets, e, args.a.codes.extent(0));
    if (begin == end) continue;
    Fp8Block block;
    block.a = CodesOf(args.a.codes, begin);
    block.a_stride = args.a.codes.row_stride();
    block.a_scales = ScalesOf(args.a.scales, begin);
    block.a_row_step = args.a.scales.row_stride();
    block.a_tile_step = 1;
    block.b = CodesOf(codes, e);
    block.b_stride = codes.extent(2);
    block.b_scales = ScalesOf(scales, e);
    block.b_tile_step = scales.extent(2);
    (forward ? block.b_bounds : block.k_bounds) = bounds;
    block.num_k_tiles = scales.extent(1);
    block.c = OutputRow(args.c, begin);
    block.c_stride = args.c.row_stride();
    block.output =
        args.c.dtype() == DType::kBF16 ? MatmulOutput::kStoreBF16 : MatmulOutput::kStoreF32;
    block.rows = end - begin;
    block.columns = codes.extent(2);
    block.k = codes.extent(1);
    products.push_back({block, {}, 0});
  }
  RunFp8Products(pool, products);
}

void Fp8WeightGradient(ThreadPool& pool, const Fp8WeightGradientArgs& args) {
  std::vector<Fp8Product>& products = ThreadProducts();
  products.clear();
  for (int64_t e = 0; e < args.dw.extent(0); ++e) {
    const auto [begin, end] = RowsOf(args.offsets, e, args.x.codes.extent(0));
    if (begin == end) continue;
    const int64_t first_tile = begin / kQuantTile + e;
    Fp8Block block;
    block.a = CodesOf(args.dy.codes, begin);
    block.a_stride = args.dy.codes.row_stride();
    block.a_transposed = true;
    block.a_scales = ScalesOf(args.dy.scales, first_tile);
    block.a_row_step = 1;
    block.a_tile_step = args.dy.scales.row_stride();
    block.b = CodesOf(args.x.codes, begin);
    block.b_stride = args.x.codes.row_stride();
    block.b_scales = ScalesOf(args.x.scales, first_tile);
    block.b_tile_step = args.x.scales.row_stride();
    block.scale_per_column = true;
    block.num_k_tiles = NumTiles(end - begin);
    block.c = OutputRow(args.dw, e);
    block.c_stride = args.dw.extent(2);
    block.output = MatmulOutput::kAddF32;
    block.rows = args.dw.extent(1);
    block.columns = args.dw.extent(2);
    block.k = end - begin;
    products.push_back({block, {}, 0});
  }
  RunFp8Products(pool, products);
}

}  // namespace sluice::kernels::cpu
