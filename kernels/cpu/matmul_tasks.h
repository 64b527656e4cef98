// Lists of packings and of products, cut into tasks and run on a thread pool.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/thread_pool.h"
#include "kernels/cpu/matmul_table.h"

namespace sluice::kernels::cpu {

struct PackJob {
  PackSource source;
  uint32_t* packed = nullptr;
};

// Both keep their elements' order of execution free. The lists are cleared and refilled by callers;
// `first_task` is scratch.
struct PackList {
  std::vector<PackJob> jobs;
  std::vector<int64_t> first_task;
};
struct ProductList {
  std::vector<MatmulBlock> products;  // whole products; run as blocks of rows and columns
  std::vector<int64_t> first_task;
};

void RunPacks(ThreadPool& pool, PackList& list);
void RunProducts(ThreadPool& pool, ProductList& list);

// Packs packs.jobs[i] and multiplies products.products[i] with it, in one task each, while both are
// in the cache; their `packed` and `b` are ignored. The longest sums first, so that the last task
// to end is a short one.
void RunPackedProducts(ThreadPool& pool, PackList& packs, ProductList& products);

// Packs source and multiplies a product with it, each thread the columns that it packed itself: no
// thread waits for another, and what is packed is still in the second-level cache. Each thread packs
// all rows of `a`, hence only where FitsColumns.
void RunColumns(ThreadPool& pool, const PackSource& source, const MatmulBlock& product);
bool FitsColumns(const ThreadPool& pool, const MatmulBlock& product);

// How a product is cut: blocks of rows, each of whose packed rows fit the second-level cache, and
// blocks of columns where there are too few rows for all threads; the blocks of rows are a multiple
// of num_threads where there are several. Affects speed only.
struct BlockGrid {
  int64_t row_blocks = 0, column_blocks = 0;
};
BlockGrid CutProduct(const MatmulBlock& product, int tile_rows, int64_t wanted_tasks,
                     int num_threads);

}  // namespace sluice::kernels::cpu
