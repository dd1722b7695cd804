// The steps of tiled attention between its matrix products: packing operands, softmax, and its gradient.
//
// A tile holds scores [keys, kQueryTile]: a row per key, a column per query, so that what belongs to a query (its
// maximum, its sum) is a vector beside the tile's rows. Products run through a kernel that wants its second operand
// packed: fp32 plain, bf16 with two rows of the summed dimension interleaved ("pairs"). Halves become fp32 where they
// are packed: few processors multiply them, none of these faster than fp32, and weights need no second rounding. D:
// head size, even. Arithmetic is fp32; elements are rounded where they are stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/core/dtype.h"

namespace sluice::models {

inline constexpr int64_t kQueryTile = 64;
inline constexpr int64_t kKeyTile = 256;  // at most; a multiple of kQueryTile

// Where a tile lies in its document, and which of its entries are seen: key <= query, and query - key < window.
struct TilePlace {
  int64_t first_key = 0, keys = 0;       // keys is a multiple of kQueryTile; those beyond the document are not seen
  int64_t first_query = 0, queries = 0;  // queries of the document, at most kQueryTile
  int64_t window = 0;                    // 0: none
};

// Running softmax of the queries of a tile: [kQueryTile] each.
struct SoftmaxState {
  float* most;        // largest scaled score, kNothingSeen before the first
  float* total;       // sum of exp(score - most)
  float* correction;  // what to multiply earlier sums by, since `most` grew
};
inline constexpr float kNothingSeen = -1e30f;

// One entry per element type of q, k, v and the output, which x, a, b and y point to. Operands of products (packed,
// transposed, weights, score_gradients) are of operand_dtype().
struct AttentionTiles {
  // x [rows, D], rows `stride` apart -> first operand of a product over D: the same without a gap.
  void (*plain_rows)(const void* x, int64_t stride, int64_t rows, int64_t width, void* y);
  // The same -> second operand of a product over D: [D, kQueryTile]. Rows beyond `rows` are zero.
  void (*pack_columns)(const void* x, int64_t stride, int64_t rows, int64_t width, void* packed);
  // The same -> second operand of a product over rows: [kQueryTile, D].
  void (*pack_rows)(const void* x, int64_t stride, int64_t rows, int64_t width, void* packed);
  // y [D, y_stride] = x^T for `rows` rows.
  void (*transpose)(const void* x, int64_t stride, int64_t rows, int64_t width, void* y, int64_t y_stride);
  // weights: exp(scale * score - most), packed as second operand of a product over keys. Updates the state.
  void (*softmax)(const float* scores, TilePlace place, float scale, SoftmaxState state, void* weights);
  // weights [keys, kQueryTile] = exp(scale * score - log_sum_exp), score_gradients = weights * (weight_gradients -
  // delta) * scale, plain and packed as above (fp32: plain only).
  void (*softmax_backward)(const float* scores, const float* weight_gradients, TilePlace place, float scale,
                           const float* log_sum_exp, const float* delta, void* weights, void* score_gradients,
                           void* packed_score_gradients);
  // columns [D, kQueryTile] *= factor [kQueryTile].
  void (*scale_columns)(float* columns, const float* factor, int64_t width);
  // y rows [rows, D] = columns^T * factor, columns [D, kQueryTile]; factor [kQueryTile].
  void (*store_columns)(const float* columns, const float* factor, int64_t rows, int64_t width, void* y,
                        int64_t y_stride);
  // y[i] = a[i] . b[i] over `width`; zero for i in [rows, kQueryTile).
  void (*row_dots)(const void* a, const void* b, int64_t stride, int64_t rows, int64_t width, float* y);
  // y row = sum over `count` parts, in order, `part_stride` apart.
  void (*sum_parts)(const float* parts, int64_t part_stride, int64_t count, int64_t rows, int64_t width, void* y,
                    int64_t y_stride);
};

const AttentionTiles& attention_tiles(Dtype dtype);
constexpr Dtype operand_dtype(Dtype dtype) { return dtype == Dtype::bf16 ? Dtype::bf16 : Dtype::f32; }

}  // namespace sluice::models
