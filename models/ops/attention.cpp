#include "models/ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "models/ops/attention_tiles.h"
#include "models/ops/flash_attention.h"

namespace sluice::models {
namespace {

// Rows that a tile may read beyond the last token, rounded so that few sizes of block kernels arise.
int64_t padded(int64_t tokens) { return round_up(tokens + kQueryTile, 128); }

const at::BFloat16* typed_bf16(const void* at) { return static_cast<const at::BFloat16*>(at); }

enum class Sum { fresh, added };

// c [m, n] (+)= a [m, k] b [k, n], fp32 sums. a is plain with rows `a_stride` apart, b is packed (attention_tiles.h).
void product(Dtype dtype, int64_t m, int64_t n, int64_t k, const void* a, int64_t a_stride, const void* b, float* c,
             Sum sum) {
  if (dtype == Dtype::bf16) {
    at::native::cpublas::brgemm(m, n, k, a_stride, n, n, sum == Sum::added, typed_bf16(a), typed_bf16(b), c, true);
  } else {
    at::native::cpublas::brgemm(m, n, k, a_stride, n, n, sum == Sum::added, static_cast<const float*>(a),
                                static_cast<const float*>(b), c, false);
  }
}

bool product_works(Dtype dtype) {
  alignas(64) std::array<float, 16 * 16> a{}, b{}, c{};
  try {
    product(dtype, 16, 16, 16, a.data(), 16, b.data(), c.data(), Sum::fresh);
    return true;
  } catch (const std::exception&) {
    return false;  // LibTorch's or oneDNN's: no such kernel for this processor, or oneDNN is switched off
  }
}

bool tiles_work(Dtype dtype) {
  static const bool f32 = product_works(Dtype::f32), bf16 = product_works(Dtype::bf16);
  return operand_dtype(dtype) == Dtype::f32 ? f32 : bf16;
}

struct QueryTile {
  int64_t document, length;  // first token of the document, its tokens
  int64_t first;             // inside the document
  int64_t queries() const { return std::min(kQueryTile, length - first); }
  int64_t token() const { return document + first; }
  int64_t keys_end() const { return first + kQueryTile; }
  int64_t keys_begin(int64_t window) const {
    return window == 0 ? 0 : round_down(std::max<int64_t>(0, first - window + 1), kQueryTile);
  }
};

std::vector<QueryTile> query_tiles(std::span<const int32_t> starts) {
  std::vector<QueryTile> tiles;
  for (size_t d = 0; d + 1 < starts.size(); ++d)
    for (int64_t first = 0; first < starts[d + 1] - starts[d]; first += kQueryTile)
      tiles.push_back({starts[d], starts[d + 1] - starts[d], first});
  return tiles;
}

// What one thread needs for one tile. Kept for the thread's life: its size depends on the head size only.
class TileMemory {
 public:
  static TileMemory& of_thread(int64_t head_dim) {
    thread_local std::unique_ptr<TileMemory> memory;
    if (memory == nullptr || memory->head_dim_ != head_dim) memory = std::make_unique<TileMemory>(head_dim);
    return *memory;
  }
  explicit TileMemory(int64_t head_dim) : head_dim_(head_dim) {
    const int64_t tile = kKeyTile * kQueryTile, side = head_dim * kQueryTile;
    bytes_.resize(static_cast<size_t>(5 * 4 * tile + 6 * 4 * side + 5 * 4 * kQueryTile + 64));
    Scratch cut({bytes_.data() + (64 - reinterpret_cast<uintptr_t>(bytes_.data()) % 64) % 64, bytes_.size() - 64});
    const auto floats = [&](int64_t count) { return cut.take_as<float>(Dtype::f32, count); };
    scores = floats(tile), weight_gradients = floats(tile);
    weights = floats(tile), score_gradients = floats(tile), packed_score_gradients = floats(tile);
    query_columns = floats(side), gradient_columns = floats(side);
    query_rows = floats(side), gradient_rows = floats(side);
    columns = floats(side);
    most = floats(kQueryTile), total = floats(kQueryTile), correction = floats(kQueryTile);
    log_sum_exp = floats(kQueryTile), delta = floats(kQueryTile);
  }

  float *scores, *weight_gradients;                          // [kKeyTile, kQueryTile]
  void *weights, *score_gradients, *packed_score_gradients;  // the same in the element type
  void *query_columns, *gradient_columns;                    // second operands over D
  void *query_rows, *gradient_rows;                          // second operands over queries
  float* columns;                                            // [D, kQueryTile]
  float *most, *total, *correction, *log_sum_exp, *delta;    // [kQueryTile]

 private:
  int64_t head_dim_;
  std::vector<std::byte> bytes_;
};

// One call of attention or its backward.
struct Call {
  Dtype dtype, operand;  // of rows, and of what products take
  const AttentionShape& shape;
  const AttentionTiles& k;
  int64_t tokens, stride_t;  // stride_t: of the transposed keys and values
  const std::byte* qkv;
  const AttentionScratch& scratch;

  Call(Dtype type, const AttentionShape& s, std::span<const int32_t> starts, const void* rows,
       const AttentionScratch& pieces)
      : dtype(type),
        operand(operand_dtype(type)),
        shape(s),
        k(attention_tiles(type)),
        tokens(starts.back()),
        stride_t(padded(starts.back())),
        qkv(static_cast<const std::byte*>(rows)),
        scratch(pieces) {}

  int64_t d() const { return shape.head_dim; }
  int64_t shared() const { return shape.heads / shape.kv_heads; }
  const void* at(const void* base, int64_t element) const {
    return static_cast<const std::byte*>(base) + element * size_of(dtype);
  }
  void* at(void* base, int64_t element) const { return static_cast<std::byte*>(base) + element * size_of(dtype); }
  int64_t query_column(int64_t head) const { return head * d(); }
  int64_t key_column(int64_t kv) const { return (shape.heads + kv) * d(); }
  int64_t value_column(int64_t kv) const { return (shape.heads + shape.kv_heads + kv) * d(); }
  const void* qkv_at(int64_t token, int64_t column) const { return at(qkv, token * shape.row() + column); }
  // Of a token, in the pieces of a key head.
  std::byte* row_of(void* piece, int64_t kv, int64_t token) const {
    return static_cast<std::byte*>(piece) + (kv * stride_t + token) * d() * size_of(operand);
  }
  std::byte* column_of(void* piece, int64_t kv, int64_t token) const {
    return static_cast<std::byte*>(piece) + (kv * stride_t * d() + token) * size_of(operand);
  }

  // Rows beyond the last token are zero: tiles read them, and nothing times zero may become NaN.
  void copy_rows(int64_t column, int64_t kv, void* to) const {
    k.plain_rows(qkv_at(0, column), shape.row(), tokens, d(), row_of(to, kv, 0));
    std::memset(row_of(to, kv, tokens), 0, static_cast<size_t>(kQueryTile * d() * size_of(operand)));
  }
  void transpose(int64_t column, int64_t kv, void* to) const {
    k.transpose(qkv_at(0, column), shape.row(), tokens, d(), column_of(to, kv, 0), stride_t);
    for (int64_t i = 0; i < d(); ++i)
      std::memset(column_of(to, kv, i * stride_t + tokens), 0, static_cast<size_t>(kQueryTile * size_of(operand)));
  }

  template <class Body>
  void for_key_tiles(const QueryTile& tile, const Body& body) const {
    for (int64_t key = tile.keys_begin(shape.window); key < tile.keys_end(); key += kKeyTile) {
      const int64_t keys = std::min(kKeyTile, tile.keys_end() - key);
      body(TilePlace{key, keys, tile.first, tile.queries(), shape.window});
    }
  }

  void forward_tile(const QueryTile& tile, int64_t head, void* output, float* log_sum_exp) const;
  void backward_tile(const QueryTile& tile, int64_t head, const void* output, const float* log_sum_exp,
                     const void* output_gradient, void* qkv_gradient) const;
};

void Call::forward_tile(const QueryTile& tile, int64_t head, void* output, float* log_sum_exp) const {
  TileMemory& m = TileMemory::of_thread(d());
  const int64_t kv = head / shared(), width = shape.heads * d();
  k.pack_columns(qkv_at(tile.token(), query_column(head)), shape.row(), tile.queries(), d(), m.query_columns);
  std::fill_n(m.most, kQueryTile, kNothingSeen);
  std::fill_n(m.total, kQueryTile, 0.0f);
  Sum sum = Sum::fresh;
  for_key_tiles(tile, [&](const TilePlace& place) {
    const int64_t key = tile.document + place.first_key;
    product(operand, place.keys, kQueryTile, d(), row_of(scratch.keys, kv, key), d(), m.query_columns, m.scores,
            Sum::fresh);
    k.softmax(m.scores, place, shape.scale, {m.most, m.total, m.correction}, m.weights);
    if (sum == Sum::added) k.scale_columns(m.columns, m.correction, d());
    product(operand, d(), kQueryTile, place.keys, column_of(scratch.values_transposed, kv, key), stride_t, m.weights,
            m.columns, sum);
    sum = Sum::added;
  });
  for (int64_t c = 0; c < tile.queries(); ++c) {
    log_sum_exp[(tile.token() + c) * shape.heads + head] = m.most[c] + std::log(m.total[c]);
    m.correction[c] = 1.0f / m.total[c];
  }
  k.store_columns(m.columns, m.correction, tile.queries(), d(), at(output, tile.token() * width + head * d()), width);
}

void Call::backward_tile(const QueryTile& tile, int64_t head, const void* output, const float* log_sum_exp,
                         const void* output_gradient, void* qkv_gradient) const {
  TileMemory& m = TileMemory::of_thread(d());
  const int64_t kv = head / shared(), width = shape.heads * d(), queries = tile.queries();
  const void* query = qkv_at(tile.token(), query_column(head));
  const int64_t place_in_output = tile.token() * width + head * d();
  const void* gradient = at(output_gradient, place_in_output);
  k.pack_columns(query, shape.row(), queries, d(), m.query_columns);
  k.pack_rows(query, shape.row(), queries, d(), m.query_rows);
  k.pack_columns(gradient, width, queries, d(), m.gradient_columns);
  k.pack_rows(gradient, width, queries, d(), m.gradient_rows);
  k.row_dots(gradient, at(output, place_in_output), width, queries, d(), m.delta);
  for (int64_t c = 0; c < kQueryTile; ++c)
    m.log_sum_exp[c] = c < queries ? log_sum_exp[(tile.token() + c) * shape.heads + head] : 0.0f;
  std::fill_n(m.columns, d() * kQueryTile, 0.0f);
  for_key_tiles(tile, [&](const TilePlace& place) {
    const int64_t key = tile.document + place.first_key, sums = (head * stride_t + key) * d();
    product(operand, place.keys, kQueryTile, d(), row_of(scratch.keys, kv, key), d(), m.query_columns, m.scores,
            Sum::fresh);
    product(operand, place.keys, kQueryTile, d(), row_of(scratch.values, kv, key), d(), m.gradient_columns,
            m.weight_gradients, Sum::fresh);
    k.softmax_backward(m.scores, m.weight_gradients, place, shape.scale, m.log_sum_exp, m.delta, m.weights,
                       m.score_gradients, m.packed_score_gradients);
    product(operand, place.keys, d(), kQueryTile, m.weights, kQueryTile, m.gradient_rows,
            scratch.value_gradients + sums, Sum::added);
    product(operand, place.keys, d(), kQueryTile, m.score_gradients, kQueryTile, m.query_rows,
            scratch.key_gradients + sums, Sum::added);
    product(operand, d(), kQueryTile, place.keys, column_of(scratch.keys_transposed, kv, key), stride_t,
            operand == Dtype::f32 ? m.score_gradients : m.packed_score_gradients, m.columns, Sum::added);
  });
  std::fill_n(m.correction, kQueryTile, 1.0f);
  k.store_columns(m.columns, m.correction, queries, d(),
                  at(qkv_gradient, tile.token() * shape.row() + query_column(head)), shape.row());
}

}  // namespace

AttentionScratch cut_attention(Scratch& scratch, Pass pass, Dtype dtype, const AttentionShape& shape, int64_t tokens) {
  AttentionScratch pieces;
  if (!tiles_work(dtype)) return pieces;
  const Dtype operand = operand_dtype(dtype);
  const int64_t keys = shape.kv_heads * padded(tokens) * shape.head_dim;
  const int64_t queries = shape.heads * padded(tokens) * shape.head_dim;
  pieces.keys = scratch.take(operand, keys);
  if (pass == Pass::forward) {
    pieces.values_transposed = scratch.take(operand, keys);
    return pieces;
  }
  pieces.values = scratch.take(operand, keys);
  pieces.keys_transposed = scratch.take(operand, keys);
  pieces.key_gradients = scratch.take_as<float>(Dtype::f32, queries);
  pieces.value_gradients = scratch.take_as<float>(Dtype::f32, queries);
  return pieces;
}

void attention(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts, const void* qkv,
               void* output, float* log_sum_exp, const AttentionScratch& scratch) {
  if (!tiles_work(dtype)) return flash_attention(dtype, shape, document_starts, qkv, output, log_sum_exp);
  const Call call(dtype, shape, document_starts, qkv, scratch);
  const std::vector<QueryTile> tiles = query_tiles(document_starts);
  const auto count = static_cast<int64_t>(tiles.size());
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < 2 * shape.kv_heads; ++i) {
      const int64_t kv = i / 2;
      i % 2 == 0 ? call.copy_rows(call.key_column(kv), kv, scratch.keys)
                 : call.transpose(call.value_column(kv), kv, scratch.values_transposed);
    }
    // Late tiles see the most keys: they go first, so that threads end together.
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < count * shape.heads; ++i)
      call.forward_tile(tiles[static_cast<size_t>(count - 1 - i / shape.heads)], i % shape.heads, output, log_sum_exp);
    at::native::cpublas::brgemm_release();
  }
}

void attention_backward(Dtype dtype, const AttentionShape& shape, std::span<const int32_t> document_starts,
                        const void* qkv, const void* output, const float* log_sum_exp, const void* output_gradient,
                        void* qkv_gradient, const AttentionScratch& scratch) {
  if (!tiles_work(dtype))
    return flash_attention_backward(dtype, shape, document_starts, qkv, output, log_sum_exp, output_gradient,
                                    qkv_gradient);
  const Call call(dtype, shape, document_starts, qkv, scratch);
  const std::vector<QueryTile> tiles = query_tiles(document_starts);
  const int64_t d = shape.head_dim, head_elements = call.stride_t * d;
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < 3 * shape.kv_heads; ++i) {
      const int64_t kv = i / 3;
      if (i % 3 == 0) call.copy_rows(call.key_column(kv), kv, scratch.keys);
      if (i % 3 == 1) call.copy_rows(call.value_column(kv), kv, scratch.values);
      if (i % 3 == 2) call.transpose(call.key_column(kv), kv, scratch.keys_transposed);
    }
    // One thread goes through all tiles of a head: sums over queries are in their order.
#pragma omp for schedule(dynamic)
    for (int64_t head = 0; head < shape.heads; ++head) {
      std::fill_n(scratch.key_gradients + head * head_elements, (call.tokens + kQueryTile) * d, 0.0f);
      std::fill_n(scratch.value_gradients + head * head_elements, (call.tokens + kQueryTile) * d, 0.0f);
      for (const QueryTile& tile : tiles)
        call.backward_tile(tile, head, output, log_sum_exp, output_gradient, qkv_gradient);
    }
    // Query heads that share a key head add up.
    const int64_t shared = call.shared();
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < 2 * shape.kv_heads; ++i) {
      const int64_t kv = i / 2, column = i % 2 == 0 ? call.key_column(kv) : call.value_column(kv);
      const float* parts = (i % 2 == 0 ? scratch.key_gradients : scratch.value_gradients) + kv * shared * head_elements;
      call.k.sum_parts(parts, head_elements, shared, call.tokens, d, call.at(qkv_gradient, column), shape.row());
    }
    at::native::cpublas::brgemm_release();
  }
}

void attention_cached(Dtype dtype, const AttentionShape& shape, const void* query, const void* keys, const void* values,
                      int64_t length, void* output) {
  flash_attention_cached(dtype, shape, query, keys, values, length, output);
}

}  // namespace sluice::models
