#include "models/ops/flash_attention.h"

#include <ATen/ATen.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>

#include <limits>
#include <optional>

#include "models/ops/scalar_type.h"

namespace sluice::models {
namespace {

at::TensorOptions options(Dtype dtype) { return at::TensorOptions().dtype(scalar_type(dtype)); }

// The kernel wants as many key heads as query heads: each key head is a batch entry whose query heads share it
// through a stride of zero, so nothing is copied.
struct Views {
  at::Tensor q, k, v;
};

struct Document {
  int64_t begin, length;
};

at::Tensor queries(Dtype dtype, const AttentionShape& s, void* rows, int64_t row_stride, int64_t length) {
  const int64_t shared = s.heads / s.kv_heads;
  return at::from_blob(rows, {s.kv_heads, shared, length, s.head_dim}, {shared * s.head_dim, s.head_dim, row_stride, 1},
                       options(dtype));
}
at::Tensor keys(Dtype dtype, const AttentionShape& s, void* rows, int64_t row_stride, int64_t length) {
  return at::from_blob(rows, {s.kv_heads, s.heads / s.kv_heads, length, s.head_dim}, {s.head_dim, 0, row_stride, 1},
                       options(dtype));
}

Views views(Dtype dtype, const AttentionShape& s, const void* qkv, Document document) {
  auto* row = static_cast<char*>(const_cast<void*>(qkv)) + document.begin * s.row() * size_of(dtype);
  const int64_t q_bytes = s.heads * s.head_dim * size_of(dtype), k_bytes = s.kv_heads * s.head_dim * size_of(dtype);
  return {queries(dtype, s, row, s.row(), document.length), keys(dtype, s, row + q_bytes, s.row(), document.length),
          keys(dtype, s, row + q_bytes + k_bytes, s.row(), document.length)};
}

at::Tensor output_view(Dtype dtype, const AttentionShape& s, const void* output, Document document) {
  auto* row = static_cast<char*>(const_cast<void*>(output)) + document.begin * s.heads * s.head_dim * size_of(dtype);
  return queries(dtype, s, row, s.heads * s.head_dim, document.length);
}

at::Tensor lse_view(const AttentionShape& s, const float* log_sum_exp, Document document) {
  const int64_t shared = s.heads / s.kv_heads;
  return at::from_blob(const_cast<float*>(log_sum_exp) + document.begin * s.heads,
                       {s.kv_heads, shared, document.length}, {shared, 1, s.heads}, at::kFloat);
}

bool windowed(const AttentionShape& s, int64_t length) { return s.window > 0 && length > s.window; }

// Additive [length, length] mask of a causal window, for documents longer than it.
std::optional<at::Tensor> window_mask(Dtype dtype, const AttentionShape& s, int64_t length) {
  if (!windowed(s, length)) return std::nullopt;
  const at::Tensor far = at::ones({length, length}, at::kBool).tril(-s.window);
  const at::Tensor future = at::ones({length, length}, at::kBool).triu(1);
  return at::zeros({length, length}, options(dtype))
      .masked_fill_(far.logical_or_(future), -std::numeric_limits<float>::infinity());
}

template <class Body>
void for_documents(std::span<const int32_t> starts, const Body& body) {
  for (size_t d = 0; d + 1 < starts.size(); ++d)
    if (starts[d + 1] > starts[d]) body(Document{starts[d], starts[d + 1] - starts[d]});
}

}  // namespace

void flash_attention(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts,
                     const void* qkv, void* output, float* log_sum_exp) {
  for_documents(document_starts, [&](Document document) {
    const Views in = views(dtype, shape, qkv, document);
    const auto mask = window_mask(dtype, shape, document.length);
    const auto [out, lse] =
        at::_scaled_dot_product_flash_attention_for_cpu(in.q, in.k, in.v, 0.0, !mask.has_value(), mask, shape.scale);
    output_view(dtype, shape, output, document).copy_(out);
    lse_view(shape, log_sum_exp, document).copy_(lse);
  });
}

void flash_attention_backward(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts,
                              const void* qkv, const void* output, const float* log_sum_exp,
                              const void* output_gradient, void* qkv_gradient) {
  for_documents(document_starts, [&](Document document) {
    const Views in = views(dtype, shape, qkv, document);
    const auto mask = window_mask(dtype, shape, document.length);
    // The layout that the forward kernel gives its own log-sum-exp.
    const at::Tensor lse = at::empty({shape.kv_heads, document.length, shape.heads / shape.kv_heads}, at::kFloat)
                               .transpose(1, 2)
                               .copy_(lse_view(shape, log_sum_exp, document));
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        output_view(dtype, shape, output_gradient, document), in.q, in.k, in.v,
        output_view(dtype, shape, output, document), lse, 0.0, !mask.has_value(), mask, shape.scale);
    const Views gradient = views(dtype, shape, qkv_gradient, document);
    gradient.q.copy_(dq);
    // Query heads that share a key head add up.
    at::Tensor k = gradient.k.select(1, 0), v = gradient.v.select(1, 0);
    at::sum_out(k, dk, {1});
    at::sum_out(v, dv, {1});
  });
}

void flash_attention_cached(Dtype dtype, const AttentionShape& shape, const void* query, const void* cached_keys,
                            const void* cached_values, int64_t length, void* output) {
  const int64_t width = shape.kv_heads * shape.head_dim;
  const int64_t seen = shape.window > 0 ? std::min(length, shape.window) : length;
  const int64_t skipped = (length - seen) * width * size_of(dtype);
  const auto at_row = [&](const void* from) { return static_cast<char*>(const_cast<void*>(from)) + skipped; };
  const auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
      queries(dtype, shape, const_cast<void*>(query), shape.row(), 1),
      keys(dtype, shape, at_row(cached_keys), width, seen), keys(dtype, shape, at_row(cached_values), width, seen), 0.0,
      false, std::nullopt, shape.scale);
  queries(dtype, shape, output, shape.heads * shape.head_dim, 1).copy_(out);
}

}  // namespace sluice::models
