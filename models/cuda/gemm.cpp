#include "models/cuda/gemm.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>

#include "models/cuda/stream.h"
#include "runtime/core/check.h"
#include "runtime/core/cuda_memory.h"
#include "runtime/core/result.h"

namespace sluice::models::cuda {
namespace {

void check_blas(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw RunError({ErrorCode::io, what + ": " + cublasLtGetStatusName(status) + ", " + cublasLtGetStatusString(status),
                  "see `nvidia-smi`; is the GPU's memory full of another process?"});
}

cudaDataType_t type_of(Dtype dtype) {
  if (dtype == Dtype::f32) return CUDA_R_32F;
  return dtype == Dtype::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

template <class Handle, cublasStatus_t (*kDestroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_ != nullptr) kDestroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* out() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;
using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;

template <class Value>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, Value value) {
  check_blas(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof(value)), "describing a product");
}
template <class Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
  check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
             "asking for a product's algorithm");
}

// Bytes at whose multiples an operand and its rows start, 16 at most: wider accesses do not exist.
uint32_t alignment_of(const void* data, int64_t stride, Dtype dtype) {
  const auto address = reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(stride * size_of(dtype)) | 16u;
  return static_cast<uint32_t>(address & (~address + 1));
}

int64_t stride_of(const Matrix& matrix) { return matrix.stride == 0 ? matrix.columns : matrix.stride; }

// All that an algorithm is chosen by.
struct Key {
  Dtype dtype, y_dtype;
  Transposed transposed;
  Into into;
  std::array<int64_t, 4> sizes;    // a rows and columns, b rows and columns
  std::array<int64_t, 3> strides;  // a, b, y
  std::array<uint32_t, 3> alignments;
  auto operator<=>(const Key&) const = default;
};

Key key_of(const Product& p) {
  const int64_t y_columns = p.transposed == Transposed::second ? p.b.rows : p.b.columns;
  const int64_t y_stride = p.y_stride == 0 ? y_columns : p.y_stride;
  return {p.dtype,
          p.y_dtype,
          p.transposed,
          p.into,
          {p.a.rows, p.a.columns, p.b.rows, p.b.columns},
          {stride_of(p.a), stride_of(p.b), y_stride},
          {alignment_of(p.a.data, stride_of(p.a), p.dtype), alignment_of(p.b.data, stride_of(p.b), p.dtype),
           alignment_of(p.y, y_stride, p.y_dtype)}};
}

std::string text_of(const Key& key) {
  const auto [a_rows, a_columns, b_rows, b_columns] = key.sizes;
  const auto matrix = [](int64_t rows, int64_t columns, bool transposed) {
    return '[' + std::to_string(rows) + ", " + std::to_string(columns) + (transposed ? "]^T" : "]");
  };
  return "a product " + matrix(a_rows, a_columns, key.transposed == Transposed::first) + ' ' +
         matrix(b_rows, b_columns, key.transposed == Transposed::second) + " in " + std::string(name_of(key.dtype)) +
         " into " + std::string(name_of(key.y_dtype));
}

// A product made ready. cuBLASLt counts columns first, so y = a b is asked for as y^T = b^T a^T: a row-major matrix is
// its own transpose there, and b comes first.
struct Ready {
  Description description;
  Layout first, second, result;
  cublasLtMatmulAlgo_t algorithm;

  Ready(cublasLtHandle_t library, const Key& key) {
    check_blas(cublasLtMatmulDescCreate(description.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    set(description.get(), CUBLASLT_MATMUL_DESC_TRANSA,
        key.transposed == Transposed::second ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description.get(), CUBLASLT_MATMUL_DESC_TRANSB,
        key.transposed == Transposed::first ? CUBLAS_OP_T : CUBLAS_OP_N);
    const auto [a_rows, a_columns, b_rows, b_columns] = key.sizes;
    layout(first, key.dtype, b_rows, b_columns, key.strides[1]);
    layout(second, key.dtype, a_rows, a_columns, key.strides[0]);
    layout(result, key.y_dtype, key.transposed == Transposed::first ? a_columns : a_rows,
           key.transposed == Transposed::second ? b_rows : b_columns, key.strides[2]);
    choose(library, key);
  }

 private:
  static void layout(Layout& layout, Dtype dtype, int64_t rows, int64_t columns, int64_t stride) {
    check_blas(cublasLtMatrixLayoutCreate(layout.out(), type_of(dtype), static_cast<uint64_t>(columns),
                                          static_cast<uint64_t>(rows), stride),
               "describing a matrix");
  }
  void choose(cublasLtHandle_t library, const Key& key) {
    Preference preference;
    check_blas(cublasLtMatmulPreferenceCreate(preference.out()), "asking for a product's algorithm");
    set(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(Gemm::kWorkspace.count));
    // The parts of a long sum are added in fp32, never in the result's type.
    set(preference.get(), CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(preference.get(), CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignments[1]);
    set(preference.get(), CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignments[0]);
    set(preference.get(), CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignments[2]);
    set(preference.get(), CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignments[2]);
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    check_blas(cublasLtMatmulAlgoGetHeuristic(library, description.get(), first.get(), second.get(), result.get(),
                                              result.get(), preference.get(), 1, &found, &count),
               "asking for the algorithm of " + text_of(key));
    check_blas(count == 1 ? found.state : CUBLAS_STATUS_NOT_SUPPORTED, "asking for the algorithm of " + text_of(key));
    algorithm = found.algo;
  }
};

// Packed rows make ever new token counts; beyond this many shapes all are looked up anew (some 50 us each).
constexpr size_t kShapesMost = 4096;

}  // namespace

struct Gemm::Impl {
  Library library;
  CudaMemory workspace{CudaMemoryKind::device, kWorkspace, "cuBLASLt"};
  std::map<Key, std::unique_ptr<Ready>> ready;

  Impl() { check_blas(cublasLtCreate(library.out()), "starting cuBLASLt"); }

  const Ready& prepared(const Key& key) {
    if (const auto found = ready.find(key); found != ready.end()) return *found->second;
    if (ready.size() >= kShapesMost) ready.clear();
    return *ready.emplace(key, std::make_unique<Ready>(library.get(), key)).first->second;
  }
};

Gemm::Gemm() : impl_(std::make_unique<Impl>()) {}
Gemm::~Gemm() = default;

void Gemm::multiply(const Product& p) {
  SLUICE_CHECK(p.a.rows > 0 && p.a.columns > 0 && p.b.rows > 0 && p.b.columns > 0, "a product of nothing");
  const Key key = key_of(p);
  const Ready& ready = impl_->prepared(key);
  const float one = 1, beta = p.into == Into::accumulate ? 1 : 0;
  const cublasStatus_t status =
      cublasLtMatmul(impl_->library.get(), ready.description.get(), &one, p.b.data, ready.first.get(), p.a.data,
                     ready.second.get(), &beta, p.y, ready.result.get(), p.y, ready.result.get(), &ready.algorithm,
                     impl_->workspace.as<void>(), static_cast<size_t>(kWorkspace.count), stream());
  if (status != CUBLAS_STATUS_SUCCESS) check_blas(status, text_of(key));
}

}  // namespace sluice::models::cuda
