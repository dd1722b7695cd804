// Elementwise and row kernels of the cpu device, chosen once for this processor. Plain pointers, no LibTorch.
//
// Shapes: N tokens, C hidden, F ffn, D head size, V vocabulary; row-major, contiguous unless a stride is named.
// Arithmetic is fp32 (sums of squares and losses too); results are rounded once to the element type, where a comment
// does not say otherwise. Every kernel gives the same bits for any number of threads: sums over tokens go through
// fixed runs of kRunTokens, added in order.
#pragma once

#include <cstdint>

#include "runtime/core/dtype.h"

namespace sluice::models {

inline constexpr int64_t kRunTokens = 64;
constexpr int64_t runs_of(int64_t tokens) { return (tokens + kRunTokens - 1) / kRunTokens; }

// Rotation angles by position: [positions, D / 2].
struct RopeAngles {
  const float* cos = nullptr;
  const float* sin = nullptr;
};

// Where heads lie in a row: `count` heads of `size` elements from `begin` on, rows `row_stride` elements apart.
struct Heads {
  int64_t row_stride = 0, begin = 0, count = 0, size = 0;
};

struct DropoutKey {
  uint64_t seed = 0, step = 0, site = 0, micro_batch = 0;
};

enum class Store { overwrite, accumulate };

// One entry per element type: void* point to elements of it.
struct Kernels {
  // y = round(x / rms(x)) * w, the order of rounding of transformers' RMSNorm. With `addend`: x += addend first (in
  // place).
  void (*rms_norm)(void* x, const void* addend, const void* w, void* y, int64_t rows, int64_t width, float epsilon);
  // dx = residual + d(rms_norm)/dx * dy. `residual` may be null, dx may alias it or dy. weight_runs: fp32 [runs,
  // width], sums over runs of tokens; null when w is frozen.
  void (*rms_norm_backward)(const void* x, const void* w, const void* dy, const void* residual, void* dx,
                            float* weight_runs, int64_t rows, int64_t width, float epsilon);
  // The same on every head of a row, in place (forward) or into dx (may alias dy).
  void (*head_norm)(const void* x, const void* w, void* y, Heads heads, int64_t rows, float epsilon);
  void (*head_norm_backward)(const void* x, const void* w, const void* dy, void* dx, float* weight_runs, Heads heads,
                             int64_t rows, float epsilon);
  // Rotates each head's halves by +angle (forward, direction 1) or -angle (backward, -1), in place.
  void (*rope)(void* x, Heads heads, const int32_t* positions, RopeAngles angles, float direction, int64_t rows);
  // gate_up [N, 2F] (gate first) -> y = silu(gate) * up [N, F].
  void (*swiglu)(const void* gate_up, void* y, int64_t rows, int64_t ffn);
  // Also recomputes y. gate_up_gradient may alias gate_up.
  void (*swiglu_backward)(const void* gate_up, const void* dy, void* gate_up_gradient, void* y, int64_t rows,
                          int64_t ffn);
  void (*add_bias)(void* x, const void* bias, int64_t rows, int64_t width);
  // runs: fp32 [runs, width].
  void (*column_runs)(const void* x, float* runs, int64_t rows, int64_t width);
  void (*add)(const void* a, const void* b, void* y, int64_t elements);
  void (*scale)(void* x, float factor, int64_t elements);
  // y = x * keep / (1 - p), keep from the counter-based generator: a function of key and element only. y may alias x.
  void (*dropout)(const void* x, void* y, int64_t elements, float p, DropoutKey key);
  // Rows of logits [rows, V] become gradients scale * (softmax - onehot) when `gradient`; row_losses[i] = -log
  // p(label).
  void (*cross_entropy)(void* logits, const int32_t* labels, double* row_losses, float scale, bool gradient,
                        int64_t rows, int64_t vocabulary);
  void (*gather_rows)(const void* table, const int32_t* rows, void* y, int64_t count, int64_t width);
  // y[rows[i]] = x[i]; other rows of y are left as they are. rows are distinct.
  void (*scatter_rows)(const void* x, const int32_t* rows, void* y, int64_t count, int64_t width);
  // `to` of its own type.
  void (*store_gradient)(const void* from, void* to, Dtype to_dtype, Store store, int64_t elements);
  // norms[row] = |w[row] + scale * more[row]|, fp32, of rows [rows, width]. `more` may be null.
  void (*row_norms)(const void* w, const void* more, float scale, float* norms, int64_t rows, int64_t width);
  // factors = magnitudes / norms, fp32; 0 where the norm is. They may lie over the norms.
  void (*magnitude_factors)(const void* magnitudes, const float* norms, float* factors, int64_t count);
  // y, or y +, = x * (factors + shift), column by column; rows x_stride and y_stride elements apart. y may alias x.
  void (*scale_columns)(const void* x, int64_t x_stride, const float* factors, float shift, void* y, int64_t y_stride,
                        Store store, int64_t rows, int64_t width);
  // runs: fp32 [runs, width], sums of a * b / divisors, column by column; 0 where the divisor is. a has rows a_stride
  // elements apart, b none between them.
  void (*product_runs)(const void* a, int64_t a_stride, const void* b, const float* divisors, float* runs, int64_t rows,
                       int64_t width);
};

const Kernels& kernels(Dtype dtype);

// Adds fp32 runs [runs, width] in order, then stores.
void store_runs(const float* runs, int64_t count, int64_t width, void* to, Dtype to_dtype, Store store);

// Adds rows of dy [N, C] into the gradient of a table [V, C] (gradient dtype), in token order for each row. Rows of
// `skip` are left out. `order` is scratch for N int32.
void scatter_add_rows(const void* dy, Dtype dtype, const int32_t* token_ids, int64_t tokens, int64_t width,
                      int32_t skip, void* table_gradient, Dtype gradient_dtype, int32_t* order);

}  // namespace sluice::models
