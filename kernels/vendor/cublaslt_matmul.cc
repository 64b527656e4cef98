#include "kernels/vendor/cublaslt_matmul.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/vendor/library.h"

namespace sluice::kernels::vendor {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA's guide recommends for Hopper

struct Functions {
  decltype(&cublasLtCreate) Create = nullptr;
  decltype(&cublasLtDestroy) Destroy = nullptr;
  decltype(&cublasLtGetVersion) GetVersion = nullptr;
  decltype(&cublasLtGetStatusString) GetStatusString = nullptr;
  decltype(&cublasLtMatmul) Matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) AlgoGetHeuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) DescCreate = nullptr;
  decltype(&cublasLtMatmulDescDestroy) DescDestroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) DescSetAttribute = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) LayoutCreate = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) LayoutDestroy = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) PreferenceCreate = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) PreferenceDestroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) PreferenceSetAttribute = nullptr;
};

absl::Status FindAll(const Library& library, Functions& lt) {
  RETURN_IF_ERROR(library.Find("cublasLtCreate", &lt.Create));
  RETURN_IF_ERROR(library.Find("cublasLtDestroy", &lt.Destroy));
  RETURN_IF_ERROR(library.Find("cublasLtGetVersion", &lt.GetVersion));
  RETURN_IF_ERROR(library.Find("cublasLtGetStatusString", &lt.GetStatusString));
  RETURN_IF_ERROR(library.Find("cublasLtMatmul", &lt.Matmul));
  RETURN_IF_ERROR(library.Find("cublasLtMatmulAlgoGetHeuristic", &lt.AlgoGetHeuristic));
  RETURN_IF_ERROR(library.Find("cublasLtMatmulDescCreate", &lt.DescCreate));
  RETURN_IF_ERROR(library.Find("cublasLtMatmulDescDestroy", &lt.DescDestroy));
  RETURN_IF_ERROR(library.Find("cublasLtMatmulDescSetAttribute", &lt.DescSetAttribute));
  RETURN_IF_ERROR(library.Find("cublasLtMatrixLayoutCreate", &lt.LayoutCreate));
  RETURN_IF_ERROR(library.Find("cublasLtMatrixLayoutDestroy", &lt.LayoutDestroy));
  RETURN_IF_ERROR(library.Find("cublasLtMatmulPreferenceCreate", &lt.PreferenceCreate));
  RETURN_IF_ERROR(library.Find("cublasLtMatmulPreferenceDestroy", &lt.PreferenceDestroy));
  return library.Find("cublasLtMatmulPreferenceSetAttribute", &lt.PreferenceSetAttribute);
}

// What the library is told of a product. It reads matrices by columns: our c [M, N] by rows is its
// [N, M], and so it computes c^T = b^T a^T, with our b as its first operand.
struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  bool has_algorithm = false;
  cublasLtMatmulAlgo_t algorithm = {};
  size_t workspace_bytes = 0;
};

cudaDataType_t TypeOf(DType dtype) {
  if (dtype == DType::kBF16) return CUDA_R_16BF;
  return dtype == DType::kE4M3 ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

class CublasLtImpl : public CublasLt {
 public:
  CublasLtImpl(const Functions& lt) : lt_(lt) {}
  ~CublasLtImpl() override {
    for (auto& [product, plan] : plans_) Destroy(plan);
    if (handle_ != nullptr) lt_.Destroy(handle_);
    if (workspace_ != nullptr) cudaFree(workspace_);
  }

  absl::Status Start() {
    RETURN_IF_ERROR(StatusOf(lt_.Create(&handle_), "creating its handle"));
    return cuda::StatusOf(cudaMalloc(&workspace_, kWorkspaceBytes), "cuBLASLt's workspace");
  }

  absl::Status Describe(const DenseProduct& product) override { return PlanOf(product).status(); }

  absl::Status Run(const DenseProduct& product, const DensePointers& pointers,
                   Stream& stream) override {
    CHECK(handle_ != nullptr) << "made without a device";
    ASSIGN_OR_RETURN(Plan * plan, PlanOf(product));
    const bool has_scales = product.operands == DType::kE4M3;
    if (has_scales) {
      RETURN_IF_ERROR(
          Set(*plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, pointers.b_scales, "b's scales"));
      RETURN_IF_ERROR(
          Set(*plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, pointers.a_scales, "a's scales"));
    }
    if (!plan->has_algorithm) RETURN_IF_ERROR(Choose(product, *plan));
    const float alpha = 1, beta = product.accumulate ? 1 : 0;
    return StatusOf(
        lt_.Matmul(handle_, plan->product, &alpha, pointers.b, plan->b, pointers.a, plan->a, &beta,
                   pointers.c, plan->c, pointers.c, plan->c, &plan->algorithm, workspace_,
                   plan->workspace_bytes, cuda::CudaStream::From(stream).handle()),
        Text(product));
  }

  std::string Version() const override {
    const size_t version = lt_.GetVersion();
    return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
  }

 private:
  static std::string Text(const DenseProduct& p) {
    return absl::StrCat("a product of ", p.m, " x ", p.n, " x ", p.k, " in ", NameOf(p.operands));
  }
  absl::Status StatusOf(cublasStatus_t code, absl::string_view what) const {
    if (code == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat("cuBLASLt ", Version(), ": ", what, ": ", lt_.GetStatusString(code)));
  }
  template <typename T>
  absl::Status Set(Plan& plan, cublasLtMatmulDescAttributes_t attribute, T value,
                   absl::string_view what) {
    return StatusOf(lt_.DescSetAttribute(plan.product, attribute, &value, sizeof(value)), what);
  }

  absl::StatusOr<Plan*> PlanOf(const DenseProduct& product) {
    const auto found = plans_.find(product);
    if (found != plans_.end()) return &found->second;
    RETURN_IF_ERROR(CheckDenseProduct(product));
    Plan plan;
    if (absl::Status status = Make(product, plan); !status.ok()) {
      Destroy(plan);
      return status;
    }
    return &plans_.emplace(product, plan).first->second;
  }

  absl::Status Make(const DenseProduct& p, Plan& plan) {
    RETURN_IF_ERROR(StatusOf(lt_.DescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                             "describing a product"));
    const int32_t of_b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int32_t of_a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_TRANSA, of_b, "transposing b"));
    RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_TRANSB, of_a, "transposing a"));
    if (p.operands == DType::kE4M3) {
      const int32_t blocks = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
      const int32_t vectors = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
      RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, blocks, "b's scale mode"));
      RETURN_IF_ERROR(Set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, vectors, "a's scale mode"));
    }
    const auto layout = [&](cublasLtMatrixLayout_t* to, DType dtype, int64_t rows, int64_t columns,
                            int64_t stride) {
      return StatusOf(lt_.LayoutCreate(to, TypeOf(dtype), static_cast<uint64_t>(columns),
                                       static_cast<uint64_t>(rows), stride),
                      "describing a matrix");
    };
    const int64_t b_rows = p.transpose_b ? p.n : p.k, b_columns = p.transpose_b ? p.k : p.n;
    const int64_t a_rows = p.transpose_a ? p.k : p.m, a_columns = p.transpose_a ? p.m : p.k;
    RETURN_IF_ERROR(layout(&plan.b, p.operands, b_rows, b_columns, p.b_row));
    RETURN_IF_ERROR(layout(&plan.a, p.operands, a_rows, a_columns, p.a_row));
    return layout(&plan.c, p.result, p.m, p.n, p.c_row);
  }

  absl::Status Choose(const DenseProduct& product, Plan& plan) {
    cublasLtMatmulPreference_t preference = nullptr;
    RETURN_IF_ERROR(StatusOf(lt_.PreferenceCreate(&preference), "making a preference"));
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    cublasStatus_t code = CUBLAS_STATUS_SUCCESS;
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
      if (code != CUBLAS_STATUS_SUCCESS) return;
      code = lt_.PreferenceSetAttribute(preference, what, &value, sizeof(value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // By default it takes pointers for multiples of 256; parts of tensors are not.
    for (const auto matrix :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      prefer(matrix, uint32_t{16});
    }
    if (code == CUBLAS_STATUS_SUCCESS) {
      code = lt_.AlgoGetHeuristic(handle_, plan.product, plan.b, plan.a, plan.c, plan.c, preference,
                                  1, &result, &found);
    }
    lt_.PreferenceDestroy(preference);
    RETURN_IF_ERROR(StatusOf(code, absl::StrCat("an algorithm for ", Text(product))));
    if (found == 0) {
      return absl::UnimplementedError(
          absl::StrCat("cuBLASLt ", Version(), ": knows no algorithm for ", Text(product)));
    }
    plan.algorithm = result.algo;
    plan.workspace_bytes = result.workspaceSize;
    plan.has_algorithm = true;
    return absl::OkStatus();
  }

  void Destroy(Plan& plan) {
    if (plan.product != nullptr) lt_.DescDestroy(plan.product);
    for (cublasLtMatrixLayout_t layout : {plan.a, plan.b, plan.c}) {
      if (layout != nullptr) lt_.LayoutDestroy(layout);
    }
  }

  const Functions lt_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<DenseProduct, Plan> plans_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Create(
    bool device, const std::vector<std::string>& libraries) {
  std::vector<std::string> names = libraries;
  if (names.empty()) {
    names = {absl::StrCat("libcublasLt.so.", CUBLAS_VER_MAJOR), SLUICE_CUBLASLT_LIBRARY};
  }
  ASSIGN_OR_RETURN(const Library library, Library::Load("cuBLASLt", names));
  Functions lt;
  RETURN_IF_ERROR(FindAll(library, lt));
  auto created = std::make_unique<CublasLtImpl>(lt);
  if (device) RETURN_IF_ERROR(created->Start());
  return created;
}

}  // namespace sluice::kernels::vendor
