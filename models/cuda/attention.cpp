#include "models/cuda/attention.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "models/ops/scalar_type.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/result.h"

namespace sluice::models::cuda {
namespace {

// custom_mask_type of LibTorch's memory-efficient attention: a query sees the keys up to its own place.
constexpr int64_t kCausal = 1;
// It wants its log-sum-exp in rows of a multiple of this.
constexpr int64_t kRowAlignment = 32;

struct Heads3 {
  at::Tensor q, k, v;  // [N, heads, head_dim], [N, kv_heads, head_dim]
};

// LibTorch may hold what block passes were measured to take, and no more.
template <class Body>
void within_the_cap(const Body& body) try {
  body();
} catch (const c10::OutOfMemoryError& error) {
  throw RunError({ErrorCode::capacity,
                  std::string("attention wants more memory than the plan gave it: ") + error.what_without_backtrace(),
                  ""});
} catch (const c10::Error& error) {
  throw RunError({ErrorCode::io, std::string("LibTorch's attention: ") + error.what_without_backtrace(), ""});
}

// What flash attention's backward adds the gradient of queries up in: fp32 rows of a head's size, 128 more per document
// than it has tokens. Where the order of sums is fixed, so many copies of them that documents and heads fill the GPU
// (mha_varlen_bwd of LibTorch's flash_api.cpp). Few documents make many copies, many short ones many rows.
class SumRows {
 public:
  SumRows(int processors, AttentionBackward mode, AttentionLimits limits)
      : processors_(processors), mode_(mode), limits_(limits) {}

  int64_t of(int64_t heads, int64_t documents, int64_t tokens) const {
    constexpr int64_t kGap = 128;
    const int64_t all = documents * heads;
    const int64_t copies = mode_ == AttentionBackward::deterministic ? (processors_ + all - 1) / all : 1;
    return copies * (tokens + kGap * documents);
  }
  // What one document and what a micro-batch of the longest ones may take.
  int64_t most(int64_t heads) const {
    const int64_t longest = std::max<int64_t>(1, limits_.document);
    const int64_t documents = std::max<int64_t>(1, (limits_.tokens + longest - 1) / longest);
    return std::max(of(heads, 1, longest), of(heads, documents, limits_.tokens));
  }
  // Bytes of that many rows.
  static int64_t bytes(int64_t rows, int64_t heads, int64_t head_dim) {
    return rows * heads * round_up(head_dim, head_dim <= 128 ? 32 : 64) * size_of(Dtype::f32);
  }

 private:
  int64_t processors_;
  AttentionBackward mode_;
  AttentionLimits limits_;
};

// LibTorch's choice of algorithms, while this lives: the switch is global, and other calls refuse to run under it.
class Determinism {
 public:
  explicit Determinism(AttentionBackward mode)
      : before_(context().deterministicAlgorithms()), filled_(context().deterministicFillUninitializedMemory()) {
    context().setDeterministicAlgorithms(mode == AttentionBackward::deterministic, /*warn_only=*/false);
    // Or every tensor made empty would be filled first.
    context().setDeterministicFillUninitializedMemory(false);
  }
  ~Determinism() {
    context().setDeterministicFillUninitializedMemory(filled_);
    context().setDeterministicAlgorithms(before_, /*warn_only=*/false);
  }
  Determinism(const Determinism&) = delete;
  Determinism& operator=(const Determinism&) = delete;

 private:
  static at::Context& context() { return at::globalContext(); }
  bool before_, filled_;
};

}  // namespace

struct Attention::Impl {
  at::TensorOptions options;
  AttentionBackward mode;
  SumRows sum_rows;
  int64_t sum_bytes = 0;  // the most that a backward was asked for so far
  // What flash attention leaves about its random numbers. Without dropout they say nothing, and its backward wants
  // them all the same.
  at::Tensor random_state, random_unused;

  at::Tensor view(Dtype dtype, const void* data, at::IntArrayRef sizes, at::IntArrayRef strides) const {
    return at::from_blob(const_cast<void*>(data), sizes, strides, options.dtype(scalar_type(dtype)));
  }
  Heads3 heads(Dtype dtype, const AttentionShape& s, const void* qkv, int64_t tokens) const {
    const auto* row = static_cast<const std::byte*>(qkv);
    const int64_t d = s.head_dim, key = s.heads * d * size_of(dtype), value = key + s.kv_heads * d * size_of(dtype);
    return {view(dtype, row, {tokens, s.heads, d}, {s.row(), d, 1}),
            view(dtype, row + key, {tokens, s.kv_heads, d}, {s.row(), d, 1}),
            view(dtype, row + value, {tokens, s.kv_heads, d}, {s.row(), d, 1})};
  }
  at::Tensor rows(Dtype dtype, const AttentionShape& s, const void* data, int64_t tokens) const {
    return view(dtype, data, {tokens, s.heads, s.head_dim}, {s.heads * s.head_dim, s.head_dim, 1});
  }
  at::Tensor sums(const AttentionShape& s, const float* log_sum_exp, int64_t tokens) const {
    return view(Dtype::f32, log_sum_exp, {s.heads, tokens}, {tokens, 1});
  }
  at::Tensor starts(const Documents& documents) const {
    const auto count = static_cast<int64_t>(documents.starts.size());
    return at::from_blob(const_cast<int32_t*>(documents.device_starts), {count}, options.dtype(at::kInt));
  }
  static std::optional<int64_t> before(const AttentionShape& s) {
    return s.window > 0 ? std::optional(s.window - 1) : std::nullopt;
  }
  static std::optional<int64_t> after(const AttentionShape& s) {
    return s.window > 0 ? std::optional<int64_t>(0) : std::nullopt;
  }

  // LibTorch's kernels load 16 bytes of a head at a time. Zeros behind it change no product.
  static at::Tensor padded(const at::Tensor& heads) {
    const int64_t size = heads.size(-1), wanted = round_up(size, 16 / heads.element_size());
    return wanted == size ? heads : at::constant_pad_nd(heads, {0, wanted - size});
  }
  static void copy_back(const at::Tensor& to, const at::Tensor& from) { to.copy_(from.narrow(-1, 0, to.size(-1))); }

  // --- halves: all documents at once ---------------------------------------------------------------------------

  void flash(const AttentionShape& s, const Documents& documents, const Heads3& in, const at::Tensor& output,
             const at::Tensor& log_sum_exp) {
    const at::Tensor at_starts = starts(documents);
    const auto [out, lse, state, unused, debug] = at::_flash_attention_forward(
        padded(in.q), padded(in.k), padded(in.v), at_starts, at_starts, documents.longest, documents.longest,
        /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, static_cast<double>(s.scale), before(s),
        after(s));
    copy_back(output, out);
    log_sum_exp.copy_(lse);
    random_state = state;
    random_unused = unused;
  }
  void flash_backward(const AttentionShape& s, const Documents& documents, const Heads3& in, const at::Tensor& output,
                      const at::Tensor& log_sum_exp, const at::Tensor& output_gradient, const Heads3& gradient) {
    SLUICE_CHECK(random_state.defined(), "attention went backward before it ever went forward");
    const auto count = static_cast<int64_t>(documents.starts.size()) - 1;
    for (int64_t first = 0, end = 0; first < count; first = end) {
      end = end_of_call(s, documents, first);
      const int64_t begin = documents.starts[static_cast<size_t>(first)];
      const int64_t tokens = documents.starts[static_cast<size_t>(end)] - begin;
      const auto part = [&](const at::Tensor& rows) { return rows.narrow(0, begin, tokens); };
      const auto operand = [&](const at::Tensor& rows) { return padded(part(rows)); };
      int64_t longest = 0;
      for (auto d = static_cast<size_t>(first); d < static_cast<size_t>(end); ++d)
        longest = std::max<int64_t>(longest, documents.starts[d + 1] - documents.starts[d]);
      at::Tensor at_starts = starts(documents).narrow(0, first, end - first + 1);
      if (begin > 0) at_starts = at_starts.sub(begin);
      const at::Tensor rest = rest_of_the_most(s, sum_rows.of(s.heads, end - first, tokens));
      const auto [dq, dk, dv] = at::_flash_attention_backward(
          operand(output_gradient), operand(in.q), operand(in.k), operand(in.v), operand(output),
          log_sum_exp.narrow(1, begin, tokens).contiguous(), at_starts, at_starts, longest, longest, /*dropout_p=*/0.0,
          /*is_causal=*/true, random_state, random_unused, static_cast<double>(s.scale), before(s), after(s));
      copy_back(part(gradient.q), dq);
      copy_back(part(gradient.k), dk);
      copy_back(part(gradient.v), dv);
    }
  }
  // The most documents from `first` on that one call takes: all of them, if not very many are very short.
  int64_t end_of_call(const AttentionShape& s, const Documents& documents, int64_t first) const {
    const auto start = [&](int64_t d) { return int64_t{documents.starts[static_cast<size_t>(d)]}; };
    int64_t end = static_cast<int64_t>(documents.starts.size()) - 1;
    const int64_t most = sum_rows.most(s.heads);
    while (end > first + 1 && sum_rows.of(s.heads, end - first, start(end) - start(first)) > most) --end;
    return end;
  }
  // What a call of so many rows takes less than any may, once: so passes that are measured have taken it. Beside the
  // call: what were given back before it would be cut up by its smaller tensors, and its rows would not fit any more.
  at::Tensor rest_of_the_most(const AttentionShape& s, int64_t rows) {
    const int64_t most = SumRows::bytes(sum_rows.most(s.heads), s.heads, s.head_dim);
    if (most <= sum_bytes) return {};
    sum_bytes = most;
    const int64_t rest = most - SumRows::bytes(rows, s.heads, s.head_dim);
    return rest > 0 ? at::empty({rest}, options.dtype(at::kByte)) : at::Tensor();
  }

  // --- fp32: one document after the other, keys repeated for the queries that share them ------------------------

  struct Document {
    int64_t begin, length;
  };
  template <class Body>
  static void for_documents(const Documents& documents, const Body& body) {
    for (size_t d = 0; d + 1 < documents.starts.size(); ++d)
      if (documents.starts[d + 1] > documents.starts[d])
        body(Document{documents.starts[d], documents.starts[d + 1] - documents.starts[d]});
  }
  // [1, length, heads, head_dim]
  static at::Tensor part(const at::Tensor& all, Document document) {
    return all.narrow(0, document.begin, document.length).unsqueeze(0);
  }
  static at::Tensor operand(const at::Tensor& all, Document document) { return padded(part(all, document)); }
  static at::Tensor repeated(const AttentionShape& s, const at::Tensor& all, Document document) {
    return padded(part(all, document).repeat_interleave(s.heads / s.kv_heads, 2));
  }
  static std::optional<int64_t> window(const AttentionShape& s) {
    return s.window > 0 ? std::optional(s.window) : std::nullopt;
  }

  void efficient(const AttentionShape& s, const Documents& documents, const Heads3& in, const at::Tensor& output,
                 const at::Tensor& log_sum_exp) {
    for_documents(documents, [&](Document document) {
      const auto [out, lse, seed, offset, longest_query, longest_key] = at::_efficient_attention_forward(
          operand(in.q, document), repeated(s, in.k, document), repeated(s, in.v, document), std::nullopt, std::nullopt,
          std::nullopt, std::nullopt, std::nullopt, /*dropout_p=*/0.0, kCausal, /*compute_log_sumexp=*/true,
          static_cast<double>(s.scale), std::nullopt, window(s));
      copy_back(part(output, document), out);
      log_sum_exp.narrow(1, document.begin, document.length).copy_(lse.squeeze(0).narrow(1, 0, document.length));
      random_state = seed;
      random_unused = offset;
    });
  }
  void efficient_backward(const AttentionShape& s, const Documents& documents, const Heads3& in,
                          const at::Tensor& output, const at::Tensor& log_sum_exp, const at::Tensor& output_gradient,
                          Heads3 gradient) {
    SLUICE_CHECK(random_state.defined(), "attention went backward before it ever went forward");
    for_documents(documents, [&](Document document) {
      const int64_t length = document.length;
      const at::Tensor lse = at::full({1, s.heads, round_up(length, kRowAlignment)},
                                      std::numeric_limits<float>::infinity(), options.dtype(at::kFloat));
      lse.squeeze(0).narrow(1, 0, length).copy_(log_sum_exp.narrow(1, document.begin, length));
      const auto [dq, dk, dv, bias] = at::_efficient_attention_backward(
          operand(output_gradient, document), operand(in.q, document), repeated(s, in.k, document),
          repeated(s, in.v, document), std::nullopt, operand(output, document), std::nullopt, std::nullopt, length,
          length, lse, /*dropout_p=*/0.0, random_state, random_unused, kCausal, /*bias_requires_grad=*/false,
          static_cast<double>(s.scale), std::nullopt, window(s));
      copy_back(part(gradient.q, document), dq);
      const auto shared = [&](const at::Tensor& of_queries) {
        return of_queries.view({1, length, s.kv_heads, s.heads / s.kv_heads, of_queries.size(3)}).sum(3);
      };
      copy_back(part(gradient.k, document), shared(dk));
      copy_back(part(gradient.v, document), shared(dv));
    });
  }
};

Attention::Attention(int device, AttentionBackward mode, AttentionLimits limits) {
  at::globalContext().lazyInitDevice(at::kCUDA);
  int processors = 0;
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "asking what the GPU is");
  impl_ = std::make_unique<Impl>(
      Impl{.options = at::TensorOptions().device(at::kCUDA, static_cast<c10::DeviceIndex>(device)),
           .mode = mode,
           .sum_rows = {processors, mode, limits}});
}
Attention::~Attention() = default;

void Attention::forward(Dtype dtype, const AttentionShape& shape, const Documents& documents, const void* qkv,
                        void* output, float* log_sum_exp) {
  const at::InferenceMode guard;
  const Heads3 in = impl_->heads(dtype, shape, qkv, documents.tokens);
  const at::Tensor out = impl_->rows(dtype, shape, output, documents.tokens);
  const at::Tensor lse = impl_->sums(shape, log_sum_exp, documents.tokens);
  within_the_cap([&] {
    dtype != Dtype::f32 ? impl_->flash(shape, documents, in, out, lse)
                        : impl_->efficient(shape, documents, in, out, lse);
  });
}

void Attention::backward(Dtype dtype, const AttentionShape& shape, const Documents& documents, const void* qkv,
                         const void* output, const float* log_sum_exp, const void* output_gradient,
                         void* qkv_gradient) {
  const at::InferenceMode guard;
  const Determinism algorithms(impl_->mode);
  const int64_t n = documents.tokens;
  const Heads3 in = impl_->heads(dtype, shape, qkv, n);
  const Heads3 gradient = impl_->heads(dtype, shape, qkv_gradient, n);
  const at::Tensor out = impl_->rows(dtype, shape, output, n), dy = impl_->rows(dtype, shape, output_gradient, n);
  const at::Tensor lse = impl_->sums(shape, log_sum_exp, n);
  within_the_cap([&] {
    dtype != Dtype::f32 ? impl_->flash_backward(shape, documents, in, out, lse, dy, gradient)
                        : impl_->efficient_backward(shape, documents, in, out, lse, dy, gradient);
  });
}

}  // namespace sluice::models::cuda
