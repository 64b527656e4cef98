#include "tests/bench/onednn.h"

#ifdef SLUICE_HAVE_ONEDNN

#include <omp.h>

#include <memory>
#include <unordered_map>

#include "oneapi/dnnl/dnnl.hpp"

namespace sluice::bench {
namespace {

struct Product {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::matmul primitive;
  std::unordered_map<int, dnnl::memory> arguments;
};

dnnl::matmul::primitive_desc Describe(const OneDnnProduct& p, const dnnl::engine& engine) {
  using Tag = dnnl::memory::format_tag;
  using Type = dnnl::memory::data_type;
  const Type type = p.dtype == kernels::DType::kBF16 ? Type::bf16 : Type::f32;
  const dnnl::memory::desc a({p.m, p.k}, type, p.transpose_a ? Tag::ba : Tag::ab);
  const dnnl::memory::desc b({p.k, p.n}, type,
                             p.packed ? Tag::any : (p.transpose_b ? Tag::ba : Tag::ab));
  const dnnl::memory::desc c({p.m, p.n}, Type::f32, Tag::ab);
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(engine, a, b, c);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), engine);
#endif
}

}  // namespace

std::function<void()> MakeOneDnnProduct(const OneDnnProduct& p) {
  try {
    auto product = std::make_shared<Product>();
    const auto description = Describe(p, product->engine);
    product->primitive = dnnl::matmul(description);
    const auto view = [&](const dnnl::memory::desc& desc, const void* data) {
      return dnnl::memory(desc, product->engine, const_cast<void*>(data));
    };
    dnnl::memory b = p.packed ? dnnl::memory(description.weights_desc(), product->engine)
                              : view(description.weights_desc(), p.b);
    if (p.packed) {
      const OneDnnProduct plain = {p.m, p.n, p.k, p.dtype, false, p.transpose_b};
      dnnl::memory source = view(Describe(plain, product->engine).weights_desc(), p.b);
      dnnl::reorder(source, b).execute(product->stream, source, b);
      product->stream.wait();
    }
    product->arguments = {{DNNL_ARG_SRC, view(description.src_desc(), p.a)},
                          {DNNL_ARG_WEIGHTS, b},
                          {DNNL_ARG_DST, view(description.dst_desc(), p.c)}};
    return [product] {
      product->primitive.execute(product->stream, product->arguments);
      product->stream.wait();
    };
  } catch (const dnnl::error&) {
    return {};
  }
}

void SetOneDnnThreads(int threads) { omp_set_num_threads(threads); }

std::string OneDnnVersion() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch);
}

}  // namespace sluice::bench

#else

namespace sluice::bench {

std::function<void()> MakeOneDnnProduct(const OneDnnProduct&) { return {}; }
void SetOneDnnThreads(int) {}
std::string OneDnnVersion() { return "none"; }

}  // namespace sluice::bench

#endif
