#include "kernels/vendor/cudnn_attention.h"

#include <limits>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/vendor/cudnn_graph.h"

namespace sluice::kernels::vendor {
namespace {

// The tensors of a graph that have memory or a value.
struct Ends {
  Descriptor q, k, v, o, log_sum_exp, scale, minus_infinity;
};

// softmax(mask(scale q k^T)) v, operation by operation. Extents and strides are [B, A, S, width].
Ends BuildAttention(const FusedAttention& a, GraphBuilder& graph) {
  const int64_t s = a.tokens;
  const auto in_memory = [&](const char* name, int64_t width, int64_t row) {
    return graph.Tensor({.name = name,
                         .type = CUDNN_DATA_BFLOAT16,
                         .extents = {a.sequences, a.heads, s, width},
                         .strides = {s * row, width, row, 1},
                         .is_virtual = false});
  };
  const auto square = [&](const char* name, cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return graph.Tensor({.name = name,
                         .type = type,
                         .extents = {a.sequences, a.heads, s, s},
                         .strides = {a.heads * s * s, s * s, s, 1}});
  };
  const auto column = [&](const char* name) {
    return graph.Tensor(
        {.name = name, .extents = {a.sequences, a.heads, s, 1}, .strides = {a.heads * s, s, 1, 1}});
  };
  const auto number = [&](const char* name) {
    return graph.Tensor({.name = name, .is_virtual = false, .is_by_value = true});
  };
  Ends ends;
  const auto row_of = [&](int64_t row, int64_t width) { return row == 0 ? a.heads * width : row; };
  const int64_t k_row = row_of(a.k_row, a.qk_width);
  ends.q = in_memory("q", a.qk_width, row_of(a.q_row, a.qk_width));
  ends.k = graph.Tensor({.name = "k, transposed",
                         .type = CUDNN_DATA_BFLOAT16,
                         .extents = {a.sequences, a.heads, a.qk_width, s},
                         .strides = {s * k_row, a.qk_width, 1, k_row},
                         .is_virtual = false});
  ends.v = in_memory("v", a.v_width, row_of(a.v_row, a.v_width));
  ends.o = in_memory("o", a.v_width, row_of(a.o_row, a.v_width));
  ends.scale = number("the scale");
  ends.minus_infinity = number("what hides a score");
  const Descriptor scores = square("scores"), scaled = square("scaled scores");
  graph.Product(ends.q, ends.k, scores);
  graph.Pointwise(CUDNN_POINTWISE_MUL, {.x = scores, .b = ends.scale}, scaled);
  // A query sees the keys up to its own place.
  const Descriptor row = square("rows", CUDNN_DATA_INT32), key = square("keys", CUDNN_DATA_INT32);
  const Descriptor sees = square("mask", CUDNN_DATA_BOOLEAN), masked = square("masked scores");
  graph.Pointwise(CUDNN_POINTWISE_GEN_INDEX, {.x = scaled, .axis = 2}, row);
  graph.Pointwise(CUDNN_POINTWISE_GEN_INDEX, {.x = scaled, .axis = 3}, key);
  graph.Pointwise(CUDNN_POINTWISE_CMP_GE, {.x = row, .b = key}, sees);
  graph.Pointwise(CUDNN_POINTWISE_BINARY_SELECT, {.x = scaled, .b = ends.minus_infinity, .t = sees},
                  masked);
  // Softmax, and the logarithm of its denominator for the backward.
  const Descriptor most = column("maximum"), shifted = square("shifted scores");
  const Descriptor weights = square("weights"), sum = column("sum"), log = column("log of the sum");
  graph.Reduction(CUDNN_REDUCE_TENSOR_MAX, masked, most);
  graph.Pointwise(CUDNN_POINTWISE_SUB, {.x = masked, .b = most}, shifted);
  graph.Pointwise(CUDNN_POINTWISE_EXP, {.x = shifted}, weights);
  graph.Reduction(CUDNN_REDUCE_TENSOR_ADD, weights, sum);
  graph.Pointwise(CUDNN_POINTWISE_LOG, {.x = sum}, log);
  ends.log_sum_exp = graph.Tensor({.name = "log_sum_exp",
                                   .extents = {a.sequences, a.heads, s, 1},
                                   .strides = {a.heads * s, 1, a.heads, 1},
                                   .is_virtual = false});
  graph.Pointwise(CUDNN_POINTWISE_ADD, {.x = log, .b = most}, ends.log_sum_exp);
  const Descriptor normal = square("normalised weights", CUDNN_DATA_BFLOAT16);
  graph.Pointwise(CUDNN_POINTWISE_DIV, {.x = weights, .b = sum}, normal);
  graph.Product(normal, ends.v, ends.o);
  return ends;
}

struct Plan {
  explicit Plan(const CudnnFunctions& cudnn) : graph(cudnn) {}
  GraphBuilder graph;
  Ends ends = {};
  Descriptor plan = nullptr;
  void* workspace = nullptr;
};

class CudnnImpl : public Cudnn {
 public:
  explicit CudnnImpl(const CudnnFunctions& cudnn) : cudnn_(cudnn) {}
  ~CudnnImpl() override {
    for (auto& [shape, plan] : plans_) cudaFree(plan->workspace);
    plans_.clear();
    if (handle_ != nullptr) cudnn_.Destroy(handle_);
  }

  absl::Status Start() { return cudnn_.StatusOf(cudnn_.Create(&handle_), "creating its handle"); }

  absl::StatusOr<int> Describe(const FusedAttention& attention) override {
    RETURN_IF_ERROR(CheckFusedAttention(attention));
    GraphBuilder graph(cudnn_);
    BuildAttention(attention, graph);
    RETURN_IF_ERROR(graph.status());
    return graph.num_finalized();
  }

  absl::Status Run(const FusedAttention& attention, float scale, const AttentionPointers& pointers,
                   Stream& stream) override {
    CHECK(handle_ != nullptr) << "made without a device";
    ASSIGN_OR_RETURN(Plan * plan, PlanOf(attention));
    float hidden = -std::numeric_limits<float>::infinity();
    const std::pair<Descriptor, const void*> places[] = {
        {plan->ends.q, pointers.q},
        {plan->ends.k, pointers.k},
        {plan->ends.v, pointers.v},
        {plan->ends.o, pointers.o},
        {plan->ends.scale, &scale},
        {plan->ends.minus_infinity, &hidden},
        {plan->ends.log_sum_exp, pointers.log_sum_exp}};
    std::vector<int64_t> numbers;
    std::vector<const void*> data;
    for (const auto& [tensor, pointer] : places) {
      numbers.push_back(plan->graph.NumberOf(tensor));
      data.push_back(pointer);
    }
    GraphBuilder call(cudnn_);
    const Descriptor pack = call.Make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "a call");
    const auto count = static_cast<int64_t>(numbers.size());
    call.Set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, numbers.data());
    call.Set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, data.data());
    call.Set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &plan->workspace);
    call.Finalize(pack);
    call.Note(cudnn_.SetStream(handle_, cuda::CudaStream::From(stream).handle()), "its stream");
    RETURN_IF_ERROR(call.status());
    return cudnn_.StatusOf(cudnn_.Execute(handle_, plan->plan, pack), "running attention");
  }

  std::string Version() const override {
    const size_t version = cudnn_.GetVersion();
    return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
  }

 private:
  absl::StatusOr<Plan*> PlanOf(const FusedAttention& a) {
    std::unique_ptr<Plan>& plan = plans_[a];
    if (plan != nullptr) return plan.get();
    RETURN_IF_ERROR(CheckFusedAttention(a));
    auto made = std::make_unique<Plan>(cudnn_);
    made->ends = BuildAttention(a, made->graph);
    RETURN_IF_ERROR(Choose(*made));
    plan = std::move(made);
    return plan.get();
  }

  // The first engine that the library proposes.
  absl::Status Choose(Plan& plan) {
    GraphBuilder& graph = plan.graph;
    const Descriptor all = graph.Make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "the graph");
    graph.Set(all, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle_);
    graph.Set(all, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
              static_cast<int64_t>(graph.operations().size()), graph.operations().data());
    graph.Finalize(all);
    const Descriptor guess = graph.Make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "a choice of engines");
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    graph.Set(guess, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, all);
    graph.Set(guess, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    graph.Finalize(guess);
    Descriptor engine = graph.Make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "an engine");
    RETURN_IF_ERROR(graph.status());
    int64_t found = 0;
    RETURN_IF_ERROR(
        cudnn_.StatusOf(cudnn_.GetAttribute(guess, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                            CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &found, &engine),
                        "choosing an engine"));
    if (found == 0) {
      return absl::UnimplementedError(
          absl::StrCat("cuDNN ", Version(), ": knows no engine for this attention"));
    }
    plan.plan = graph.Make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "a plan");
    graph.Set(plan.plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle_);
    graph.Set(plan.plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, engine);
    graph.Finalize(plan.plan);
    RETURN_IF_ERROR(graph.status());
    int64_t bytes = 0;
    RETURN_IF_ERROR(
        cudnn_.StatusOf(cudnn_.GetAttribute(plan.plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                            CUDNN_TYPE_INT64, 1, &found, &bytes),
                        "asking for a workspace"));
    if (bytes == 0) return absl::OkStatus();
    return cuda::StatusOf(cudaMalloc(&plan.workspace, static_cast<size_t>(bytes)),
                          "cuDNN's workspace");
  }

  const CudnnFunctions cudnn_;
  cudnnHandle_t handle_ = nullptr;
  std::map<FusedAttention, std::unique_ptr<Plan>> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Cudnn>> Cudnn::Create(bool device,
                                                     const std::vector<std::string>& libraries) {
  std::vector<std::string> names = libraries;
  if (names.empty()) names = {absl::StrCat("libcudnn.so.", CUDNN_MAJOR), SLUICE_CUDNN_LIBRARY};
  ASSIGN_OR_RETURN(const Library library, Library::Load("cuDNN", names));
  CudnnFunctions cudnn;
  RETURN_IF_ERROR(cudnn.FindAll(library));
  auto created = std::make_unique<CudnnImpl>(cudnn);
  if (device) RETURN_IF_ERROR(created->Start());
  return created;
}

}  // namespace sluice::kernels::vendor
