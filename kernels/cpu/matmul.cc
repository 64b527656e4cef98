#include "kernels/cpu/matmul.h"

#include <algorithm>

#include "kernels/cpu/matmul_layout.h"
#include "kernels/cpu/matmul_tasks.h"
#include "kernels/cpu/scratch.h"

namespace sluice::kernels::cpu {
namespace {

// Unpacked right-hand operands are packed in pieces of about this size, so that a piece is still in
// the last-level cache when it is multiplied.
constexpr int64_t kPieceWords = 2 << 20;
constexpr int64_t kMinPieceColumns = 512;  // fewer would repack `a` too often

// Reused by every call on this thread; an op never runs inside another.
struct Workspace {
  PackList packs;
  ProductList products;
  Scratch packed;
};
Workspace& ThreadWorkspace() {
  thread_local Workspace workspace;
  return workspace;
}

const char* ElementAt(const ConstTensorView& view, int64_t row, int64_t column) {
  return static_cast<const char*>(view.raw_data()) +
         (row * view.row_stride() + column) * static_cast<int64_t>(SizeOf(view.dtype()));
}

MatmulOutput OutputOf(const TensorView& c, bool accumulate) {
  if (c.dtype() == DType::kBF16) return MatmulOutput::kStoreBF16;
  return accumulate ? MatmulOutput::kAddF32 : MatmulOutput::kStoreF32;
}

void* MutableElementAt(const TensorView& view, int64_t row, int64_t column) {
  return const_cast<char*>(ElementAt(view, row, column));
}

// Packings of x and products with them of the experts [begin, end), packed one after the other from
// `packed` on (null: nowhere yet).
void ListWeightGradients(const GroupedWeightGradientArgs& args, int64_t begin, int64_t end,
                         uint32_t* packed, Workspace& workspace) {
  const int32_t* offsets = args.offsets.data<int32_t>();
  const int64_t n = args.dw.extent(1), k = args.dw.extent(2);
  workspace.packs.jobs.clear();
  workspace.products.products.clear();
  for (int64_t e = begin; e < end; ++e) {
    const int64_t tokens = offsets[e + 1] - offsets[e];
    if (tokens == 0 || n == 0 || k == 0) continue;
    PackJob job;
    job.source.data = ElementAt(args.x, offsets[e], 0);
    job.source.dtype = job.source.packed_dtype = args.x.dtype();
    job.source.stride = args.x.row_stride();
    job.source.k = tokens;
    job.source.n = k;
    job.packed = packed;
    workspace.packs.jobs.push_back(job);
    MatmulBlock product;
    product.a = ElementAt(args.dy, offsets[e], 0);
    product.a_stride = args.dy.row_stride();
    product.a_transposed = true;
    product.dtype = args.x.dtype();
    product.b = packed;
    product.c = MutableElementAt(args.dw, e, 0);
    product.c_stride = k;
    product.output = MatmulOutput::kAddF32;
    product.rows = n;
    product.columns = k;
    product.k = tokens;
    workspace.products.products.push_back(product);
    if (packed != nullptr) packed += PackedWords(tokens, k, args.x.dtype());
  }
}

// Packs the columns of `b` piece by piece, all threads together, and multiplies with each.
void RunPieces(ThreadPool& pool, const PackSource& source, const MatmulBlock& product,
               const MatmulArgs& args) {
  Workspace& workspace = ThreadWorkspace();
  const int64_t column_words = std::max<int64_t>(1, NumUnits(source.k, source.packed_dtype));
  const int64_t piece =
      std::max(kMinPieceColumns, kPieceWords / column_words / kPanelColumns * kPanelColumns);
  for (int64_t column = 0; column < source.n; column += piece) {
    PackJob job = {.source = source};
    job.source.data =
        args.transpose_b ? ElementAt(args.b, column, 0) : ElementAt(args.b, 0, column);
    job.source.n = std::min(piece, source.n - column);
    const int64_t words = PackedWords(source.k, job.source.n, source.packed_dtype);
    job.packed = workspace.packed.Get<uint32_t>(static_cast<size_t>(words));
    workspace.packs.jobs.assign(1, job);
    RunPacks(pool, workspace.packs);

    MatmulBlock part = product;
    part.b = job.packed;
    part.c = MutableElementAt(args.c, 0, column);
    part.columns = job.source.n;
    workspace.products.products.assign(1, part);
    RunProducts(pool, workspace.products);
  }
}

}  // namespace

void PackMatrix(ThreadPool& pool, const PackMatrixArgs& args) {
  Workspace& workspace = ThreadWorkspace();
  const PackedMatrix& packed = args.packed;
  uint32_t* words = static_cast<uint32_t*>(packed.storage.raw_mutable_data());
  const int64_t rows = args.transpose ? packed.n : packed.k;
  const int64_t columns = args.transpose ? packed.k : packed.n;
  const bool is_stack = args.b.shape().rank() == 3;
  workspace.packs.jobs.clear();
  for (int64_t e = 0; e < packed.num_matrices; ++e) {
    PackJob job;
    job.source.data = ElementAt(args.b, is_stack ? e : 0, 0);
    job.source.dtype = args.b.dtype();
    job.source.stride = is_stack ? columns : args.b.row_stride();
    job.source.transposed = args.transpose;
    job.source.k = packed.k;
    job.source.n = packed.n;
    job.source.packed_dtype = packed.dtype;
    job.packed = words + e * PackedWords(packed.k, packed.n, packed.dtype);
    if (rows * columns > 0) workspace.packs.jobs.push_back(job);
  }
  RunPacks(pool, workspace.packs);
}

void Matmul(ThreadPool& pool, const MatmulArgs& args) {
  const int64_t m = args.c.extent(0), n = args.c.extent(1);
  const int64_t k = args.a.extent(args.transpose_a ? 0 : 1);
  PackSource source;
  source.data = args.b.raw_data();
  source.dtype = source.packed_dtype = args.b.dtype();
  source.stride = args.b.row_stride();
  source.transposed = args.transpose_b;
  source.k = k;
  source.n = n;
  MatmulBlock product;
  product.a = args.a.raw_data();
  product.a_stride = args.a.row_stride();
  product.a_transposed = args.transpose_a;
  product.dtype = args.a.dtype();
  product.c = args.c.raw_mutable_data();
  product.c_stride = args.c.row_stride();
  product.output = OutputOf(args.c, args.accumulate);
  product.rows = m;
  product.columns = n;
  product.k = k;
  if (FitsColumns(pool, product)) {
    RunColumns(pool, source, product);
  } else {
    RunPieces(pool, source, product, args);
  }
}

void PackedMatmul(ThreadPool& pool, const PackedMatmulArgs& args) {
  Workspace& workspace = ThreadWorkspace();
  MatmulBlock product;
  product.a = args.a.raw_data();
  product.a_stride = args.a.row_stride();
  product.dtype = args.a.dtype();
  product.b = static_cast<const uint32_t*>(args.b.storage.raw_data());
  product.c = args.c.raw_mutable_data();
  product.c_stride = args.c.row_stride();
  product.output = OutputOf(args.c, args.accumulate);
  product.rows = args.c.extent(0);
  product.columns = args.b.n;
  product.k = args.b.k;
  workspace.products.products.assign(1, product);
  RunProducts(pool, workspace.products);
}

void GroupedMatmul(ThreadPool& pool, const GroupedMatmulArgs& args) {
  Workspace& workspace = ThreadWorkspace();
  const int32_t* offsets = args.offsets.data<int32_t>();
  const auto* words = static_cast<const uint32_t*>(args.w.storage.raw_data());
  workspace.products.products.clear();
  for (int64_t e = 0; e < args.w.num_matrices; ++e) {
    if (offsets[e] == offsets[e + 1]) continue;
    MatmulBlock product;
    product.a = ElementAt(args.x, offsets[e], 0);
    product.a_stride = args.x.row_stride();
    product.dtype = args.x.dtype();
    product.b = words + e * PackedWords(args.w.k, args.w.n, args.w.dtype);
    product.c = MutableElementAt(args.y, offsets[e], 0);
    product.c_stride = args.y.row_stride();
    product.output = OutputOf(args.y, false);
    product.rows = offsets[e + 1] - offsets[e];
    product.columns = args.w.n;
    product.k = args.w.k;
    workspace.products.products.push_back(product);
  }
  RunProducts(pool, workspace.products);
}

void GroupedWeightGradient(ThreadPool& pool, const GroupedWeightGradientArgs& args) {
  Workspace& workspace = ThreadWorkspace();
  const int32_t* offsets = args.offsets.data<int32_t>();
  const int64_t num_experts = args.dw.extent(0), k = args.dw.extent(2);
  int64_t most = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    most = std::max<int64_t>(most, offsets[e + 1] - offsets[e]);
  }
  // Enough experts, and none so large that the others would be done long before it.
  const int64_t total = offsets[num_experts] - offsets[0];
  if (pool.num_threads() == 1 || 2 * most * pool.num_threads() <= total) {
    ListWeightGradients(args, 0, num_experts, nullptr, workspace);
    RunPackedProducts(pool, workspace.packs, workspace.products);
    return;
  }
  for (int64_t begin = 0, end; begin < num_experts; begin = end) {
    int64_t words = 0;  // of the experts [begin, end), whose rows of x are packed together
    for (end = begin; end < num_experts && (end == begin || words < kPieceWords); ++end) {
      words += PackedWords(offsets[end + 1] - offsets[end], k, args.x.dtype());
    }
    uint32_t* packed = workspace.packed.Get<uint32_t>(static_cast<size_t>(words));
    ListWeightGradients(args, begin, end, packed, workspace);
    RunPacks(pool, workspace.packs);
    RunProducts(pool, workspace.products);
  }
}

}  // namespace sluice::kernels::cpu
