#include "models/cuda/attention.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include <limits>
#include <optional>

#include "models/ops/scalar_type.h"
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
}

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

  // --- halves: all documents at once ---------------------------------------------------------------------------

  void flash(const AttentionShape& s, const Documents& documents, const Heads3& in, at::Tensor output,
             at::Tensor log_sum_exp) {
    const at::Tensor at_starts = starts(documents);
    const auto [out, lse, state, unused, debug] = at::_flash_attention_forward(
        in.q, in.k, in.v, at_starts, at_starts, documents.longest, documents.longest, /*dropout_p=*/0.0,
        /*is_causal=*/true, /*return_debug_mask=*/false, static_cast<double>(s.scale), before(s), after(s));
    output.copy_(out);
    log_sum_exp.copy_(lse);
    random_state = state;
    random_unused = unused;
  }
  void flash_backward(const AttentionShape& s, const Documents& documents, const Heads3& in, const at::Tensor& output,
                      const at::Tensor& log_sum_exp, const at::Tensor& output_gradient, Heads3 gradient) {
    SLUICE_CHECK(random_state.defined(), "attention went backward before it ever went forward");
    const at::Tensor at_starts = starts(documents);
    const auto [dq, dk, dv] =
        at::_flash_attention_backward(output_gradient, in.q, in.k, in.v, output, log_sum_exp, at_starts, at_starts,
                                      documents.longest, documents.longest, /*dropout_p=*/0.0, /*is_causal=*/true,
                                      random_state, random_unused, static_cast<double>(s.scale), before(s), after(s));
    gradient.q.copy_(dq);
    gradient.k.copy_(dk);
    gradient.v.copy_(dv);
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
  static at::Tensor repeated(const AttentionShape& s, const at::Tensor& all, Document document) {
    return part(all, document).repeat_interleave(s.heads / s.kv_heads, 2);
  }
  static std::optional<int64_t> window(const AttentionShape& s) {
    return s.window > 0 ? std::optional(s.window) : std::nullopt;
  }

  void efficient(const AttentionShape& s, const Documents& documents, const Heads3& in, at::Tensor output,
                 at::Tensor log_sum_exp) {
    for_documents(documents, [&](Document document) {
      const auto [out, lse, seed, offset, longest_query, longest_key] = at::_efficient_attention_forward(
          part(in.q, document), repeated(s, in.k, document), repeated(s, in.v, document), std::nullopt, std::nullopt,
          std::nullopt, std::nullopt, std::nullopt, /*dropout_p=*/0.0, kCausal, /*compute_log_sumexp=*/true,
          static_cast<double>(s.scale), std::nullopt, window(s));
      part(output, document).copy_(out);
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
          part(output_gradient, document), part(in.q, document), repeated(s, in.k, document),
          repeated(s, in.v, document), std::nullopt, part(output, document), std::nullopt, std::nullopt, length, length,
          lse, /*dropout_p=*/0.0, random_state, random_unused, kCausal, /*bias_requires_grad=*/false,
          static_cast<double>(s.scale), std::nullopt, window(s));
      part(gradient.q, document).copy_(dq);
      const auto shared = [&](const at::Tensor& of_queries) {
        return of_queries.view({1, length, s.kv_heads, s.heads / s.kv_heads, s.head_dim}).sum(3);
      };
      part(gradient.k, document).copy_(shared(dk));
      part(gradient.v, document).copy_(shared(dv));
    });
  }
};

Attention::Attention(int device, AttentionBackward mode) : impl_(std::make_unique<Impl>()) {
  at::globalContext().lazyInitDevice(at::kCUDA);
  impl_->options = at::TensorOptions().device(at::kCUDA, static_cast<c10::DeviceIndex>(device));
  impl_->mode = mode;
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
