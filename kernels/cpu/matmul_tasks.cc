#include "kernels/cpu/matmul_tasks.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "kernels/cpu/matmul_layout.h"
#include "kernels/cpu/op_table.h"
#include "kernels/cpu/scratch.h"

namespace sluice::kernels::cpu {
namespace {

constexpr int64_t kPackedRowBytes =
    384 * 1024;  // of `a` per task: part of a 1 MiB second-level cache
constexpr int64_t kMaxRows = 192, kMinRows = 48;
// So that the last task to end does not leave others idle long.
constexpr int64_t kTasksPerThread = 4, kChunksPerThread = 2;
constexpr int64_t kPackUnits = 256, kPackPanels = 8;
// RunColumns: of `a` for each thread, and of columns packed at a time.
constexpr int64_t kOwnedRowBytes = 1 << 20, kOwnedColumnBytes = 256 * 1024;

int64_t WantedTasks(const ThreadPool& pool) {
  return pool.num_threads() == 1 ? 1 : kTasksPerThread * pool.num_threads();
}

// The last i with first[i] <= task.
size_t OwnerOf(const std::vector<int64_t>& first, int64_t task) {
  return static_cast<size_t>(std::upper_bound(first.begin(), first.end(), task) - first.begin()) -
         1;
}

// Sets the columns of `block` to those of panels [panel, panel_end) of `product`.
void NarrowColumns(const MatmulBlock& product, int64_t panel, int64_t panel_end,
                   MatmulBlock& block) {
  const int64_t column = panel * kPanelColumns;
  const int64_t c_bytes = product.output == MatmulOutput::kStoreBF16 ? 2 : 4;
  block.columns = std::min(product.columns, panel_end * kPanelColumns) - column;
  block.c = static_cast<char*>(product.c) + column * c_bytes;
}

// Packs panels [panel, panel_end) of a matrix to `packed`, which begins with the first of them.
void PackColumns(const PackSource& source, int64_t panel, int64_t panel_end, uint32_t* packed) {
  const int64_t column = panel * kPanelColumns;
  const int64_t element_bytes = source.dtype == DType::kBF16 ? 2 : 4;
  PackSource part = source;
  part.data = static_cast<const char*>(source.data) +
              column * (source.transposed ? source.stride : 1) * element_bytes;
  part.n = source.n - column;
  const int64_t units = NumUnits(source.k, source.packed_dtype);
  for (int64_t unit = 0; unit < units; unit += kPackUnits) {
    Table().matmul.pack(part,
                        {.unit_begin = unit,
                         .unit_end = std::min(units, unit + kPackUnits),
                         .panel_begin = 0,
                         .panel_end = panel_end - panel},
                        packed);
  }
}

// Rows [row, row_end) of a product, columns of panels [panel, panel_end).
void MultiplyPart(const MatmulBlock& product, int64_t row, int64_t row_end, int64_t panel,
                  int64_t panel_end, Scratch& scratch) {
  const MatmulTable& table = Table().matmul;
  const int64_t a_bytes = product.dtype == DType::kBF16 ? 2 : 4;
  const int64_t c_bytes = product.output == MatmulOutput::kStoreBF16 ? 2 : 4;
  MatmulBlock block = product;
  NarrowColumns(product, panel, panel_end, block);
  block.b = product.b + panel * NumUnits(product.k, product.dtype) * kPanelColumns;
  block.rows = row_end - row;
  block.a = static_cast<const char*>(product.a) +
            row * (product.a_transposed ? 1 : product.a_stride) * a_bytes;
  block.c = static_cast<char*>(block.c) + row * product.c_stride * c_bytes;
  const int64_t words = table.scratch_words(block.rows, block.k, block.dtype);
  table.multiply(block, scratch.Get<uint32_t>(static_cast<size_t>(words)));
}

}  // namespace

BlockGrid CutProduct(const MatmulBlock& product, int tile_rows, int64_t wanted_tasks,
                     int num_threads) {
  if (product.rows == 0 || product.columns == 0) return {};
  const int64_t row_bytes = std::max<int64_t>(1, NumUnits(product.k, product.dtype)) * 4;
  const int64_t fitting = std::min(kMaxRows, kPackedRowBytes / row_bytes);
  const int64_t most = std::max<int64_t>(tile_rows, fitting / tile_rows * tile_rows);
  BlockGrid grid;
  grid.row_blocks = std::max(CeilDiv(product.rows, most),
                             std::min(wanted_tasks, CeilDiv(product.rows, kMinRows)));
  if (grid.row_blocks > 1) grid.row_blocks = CeilDiv(grid.row_blocks, num_threads) * num_threads;
  grid.column_blocks = std::min(NumPanels(product.columns), CeilDiv(wanted_tasks, grid.row_blocks));
  return grid;
}

void RunPacks(ThreadPool& pool, PackList& list) {
  const auto tasks_of = [](const PackSource& s) {
    return CeilDiv(NumUnits(s.k, s.packed_dtype), kPackUnits) *
           CeilDiv(NumPanels(s.n), kPackPanels);
  };
  int64_t num_tasks = 0;
  list.first_task.clear();
  for (const PackJob& job : list.jobs) {
    list.first_task.push_back(num_tasks);
    num_tasks += tasks_of(job.source);
  }
  const auto pack = Table().matmul.pack;
  pool.ParallelFor(num_tasks, [&](int64_t task) {
    const size_t owner = OwnerOf(list.first_task, task);
    const PackJob& job = list.jobs[owner];
    const int64_t units = NumUnits(job.source.k, job.source.packed_dtype);
    const int64_t panels = NumPanels(job.source.n);
    const int64_t index = task - list.first_task[owner];
    const int64_t chunks = CeilDiv(units, kPackUnits);
    PackPart part;
    part.unit_begin = index % chunks * kPackUnits;
    part.unit_end = std::min(units, part.unit_begin + kPackUnits);
    part.panel_begin = index / chunks * kPackPanels;
    part.panel_end = std::min(panels, part.panel_begin + kPackPanels);
    pack(job.source, part, job.packed);
  });
}

void RunPackedProducts(ThreadPool& pool, PackList& packs, ProductList& list) {
  const MatmulTable& table = Table().matmul;
  std::vector<int64_t>& order = list.first_task;
  order.resize(list.products.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const int64_t k_a = list.products[a].k, k_b = list.products[b].k;
    return k_a != k_b ? k_a > k_b : a < b;
  });
  // Every thread gets what the largest needs, so that whoever takes it next time need not grow.
  int64_t most_words = 0;
  for (const PackJob& job : packs.jobs) {
    most_words =
        std::max(most_words, PackedWords(job.source.k, job.source.n, job.source.packed_dtype));
  }
  pool.ParallelFor(std::ssize(order), [&](int64_t task) {
    thread_local Scratch packed_scratch, row_scratch;
    const PackSource& source = packs.jobs[order[task]].source;
    const int64_t panels = NumPanels(source.n);
    uint32_t* packed = packed_scratch.Get<uint32_t>(static_cast<size_t>(most_words));
    PackColumns(source, 0, panels, packed);
    MatmulBlock product = list.products[order[task]];
    product.b = packed;
    const int64_t blocks = CutProduct(product, table.tile_rows, 1, 1).row_blocks;
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t begin = product.rows * i / blocks, end = product.rows * (i + 1) / blocks;
      MultiplyPart(product, begin, end, 0, panels, row_scratch);
    }
  });
}

bool FitsColumns(const ThreadPool& pool, const MatmulBlock& product) {
  const int64_t row_bytes = NumUnits(product.k, product.dtype) * 4;
  return product.rows <= product.columns && product.rows * row_bytes <= kOwnedRowBytes &&
         NumPanels(product.columns) >= 2 * pool.num_threads();
}

void RunColumns(ThreadPool& pool, const PackSource& source, const MatmulBlock& product) {
  const MatmulTable& table = Table().matmul;
  const int64_t units = NumUnits(source.k, source.packed_dtype), panels = NumPanels(source.n);
  const int64_t panel_words = units * kPanelColumns;
  const int64_t fitting = std::clamp<int64_t>(
      kOwnedColumnBytes / (4 * std::max<int64_t>(1, panel_words)), 1, kPackPanels);
  const int64_t step = std::min(fitting, CeilDiv(panels, kChunksPerThread * pool.num_threads()));
  const int64_t chunks = CeilDiv(panels, step);
  std::atomic<int64_t> next_chunk{0};
  pool.ParallelFor(std::min<int64_t>(chunks, pool.num_threads()), [&](int64_t) {
    thread_local Scratch packed_scratch, row_scratch;
    MatmulBlock block = product;
    uint32_t* packed = packed_scratch.Get<uint32_t>(static_cast<size_t>(step * panel_words));
    uint32_t* rows = row_scratch.Get<uint32_t>(
        static_cast<size_t>(table.scratch_words(block.rows, block.k, block.dtype)));
    for (int64_t chunk; (chunk = next_chunk.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      const int64_t panel = panels * chunk / chunks, panel_end = panels * (chunk + 1) / chunks;
      PackColumns(source, panel, panel_end, packed);
      NarrowColumns(product, panel, panel_end, block);
      block.b = packed;
      table.multiply(block, rows);
      block.a_is_packed = true;
    }
  });
}

void RunProducts(ThreadPool& pool, ProductList& list) {
  const MatmulTable& table = Table().matmul;
  int64_t total_rows = 0, num_tasks = 0;
  for (const MatmulBlock& product : list.products) total_rows += product.rows;
  const int64_t wanted = WantedTasks(pool);
  // A product's share of the tasks is its share of the rows.
  const auto wanted_of = [&](const MatmulBlock& product) {
    return std::max<int64_t>(1, CeilDiv(wanted * product.rows, std::max<int64_t>(1, total_rows)));
  };
  list.first_task.clear();
  for (const MatmulBlock& product : list.products) {
    list.first_task.push_back(num_tasks);
    const BlockGrid grid =
        CutProduct(product, table.tile_rows, wanted_of(product), pool.num_threads());
    num_tasks += grid.row_blocks * grid.column_blocks;
  }
  pool.ParallelFor(num_tasks, [&](int64_t task) {
    const size_t owner = OwnerOf(list.first_task, task);
    const MatmulBlock& product = list.products[owner];
    const BlockGrid grid =
        CutProduct(product, table.tile_rows, wanted_of(product), pool.num_threads());
    const int64_t index = task - list.first_task[owner];
    const int64_t row_block = index % grid.row_blocks, column_block = index / grid.row_blocks;
    const int64_t row = product.rows * row_block / grid.row_blocks;
    const int64_t row_end = product.rows * (row_block + 1) / grid.row_blocks;
    const int64_t panels = NumPanels(product.columns);
    const int64_t panel = panels * column_block / grid.column_blocks;
    const int64_t panel_end = panels * (column_block + 1) / grid.column_blocks;
    thread_local Scratch scratch;
    MultiplyPart(product, row, row_end, panel, panel_end, scratch);
  });
}

}  // namespace sluice::kernels::cpu
