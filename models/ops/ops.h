// The arithmetic of one kind of device: what block programs are made of. Two implementations: the host's (`cpu_ops`, by
// LibTorch and this folder's kernels) and a GPU's (models/cuda). Pointers are to the device's memory, 64-byte aligned.
//
// Threads: one caller at a time. On a GPU calls enqueue on the calling thread's stream and return.
#pragma once

#include <cstdint>
#include <memory>

#include "models/low_bit.h"
#include "models/ops/attention.h"
#include "models/ops/gemm.h"
#include "models/ops/kernels.h"
#include "models/ops/rope_table.h"
#include "models/ops/scratch.h"
#include "models/program.h"

namespace sluice::models {

// Where a gradient goes, and how.
struct GradientTarget {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  Store store = Store::overwrite;
};

// Numbers of a micro-batch where kernels find them.
struct BatchNumbers {
  const int32_t* token_ids = nullptr;  // [N]
  const int32_t* positions = nullptr;  // [N]
};

// The tokens that have a label, ascending: on the device, and the same lists in the host's memory.
struct SupervisedTokens {
  int64_t count = 0;
  const int32_t *rows = nullptr, *labels = nullptr;            // [count]
  const int32_t *host_rows = nullptr, *host_labels = nullptr;  // [count]

  SupervisedTokens part(int64_t begin, int64_t size) const {
    return {size, rows + begin, labels + begin, host_rows + begin, host_labels + begin};
  }
};

class Ops : public ProgramContext {
 public:
  // Row kernels of an element type.
  virtual const Kernels& kernels(Dtype dtype) const = 0;

  // y [N, O] = x [N, I] w^T, w [O, I].
  virtual void multiply_by_transposed(Dtype dtype, Matrix x, Matrix w, Target y) const = 0;
  // y [N, I] = x [N, O] w, w [O, I].
  virtual void multiply(Dtype dtype, Matrix x, Matrix w, Target y) const = 0;
  // y [O, I] = a^T b, a [N, O], b [N, I]. `temporary`: O * I elements of `dtype`.
  virtual void weight_gradient(Dtype dtype, Matrix a, Matrix b, GradientTarget y, void* temporary) const = 0;
  // Bytes of a matrix in low bits that are expanded at once: a CPU's caches still hold them when the product reads
  // them.
  virtual Bytes expanded_tile() const = 0;
  // The range of `from`, rounded once, to rows `stride` elements apart.
  virtual void expand(Dtype dtype, const StoredMatrix& from, MatrixRange range, void* to, int64_t stride) const = 0;
  // The range of a plain matrix, without a gap.
  virtual void copy_range(Dtype dtype, Matrix from, MatrixRange range, void* to) const = 0;
  // y [width]: adds fp32 runs [count, width] in order.
  virtual void store_runs(const float* runs, int64_t count, int64_t width, GradientTarget y) const = 0;

  virtual AttentionScratch cut_attention(Scratch& scratch, Pass pass, Dtype dtype, const AttentionShape& shape,
                                         int64_t tokens) const = 0;
  // output [N, heads * head_dim]; log_sum_exp: N * heads, in an order of this device's own.
  virtual void attention(Dtype dtype, const AttentionShape& shape, const MicroBatch& batch, const void* qkv,
                         void* output, float* log_sum_exp, const AttentionScratch& scratch) const = 0;
  // qkv_gradient [N, row()] is written whole.
  virtual void attention_backward(Dtype dtype, const AttentionShape& shape, const MicroBatch& batch, const void* qkv,
                                  const void* output, const float* log_sum_exp, const void* output_gradient,
                                  void* qkv_gradient, const AttentionScratch& scratch) const = 0;

  // As large as a tile of logits should be: near a CPU's caches; on a GPU large enough that the gradient of the head's
  // weights, which each tile is added to, is not the most that moves.
  virtual Bytes logits_tile() const = 0;
  virtual BatchNumbers numbers(const MicroBatch& batch) const = 0;
  // Angles of the positions below `positions`.
  virtual RopeAngles angles(RopeTable& table, int64_t positions) const = 0;
  // `rows` and `labels` [N]: room for them, used or not.
  virtual SupervisedTokens supervised(const MicroBatch& batch, int32_t* rows, int32_t* labels) const = 0;
  // Sum of the losses [count], in order, over what is in `sum` or added to it. `sum` belongs to an OpReport.
  virtual void sum_losses(const double* losses, int64_t count, Store store, double& sum) const = 0;
  // What `loss` makes of a chunk whose logits are in this device's memory. Returns once the sum is there; gradients are
  // there for what is enqueued next.
  virtual double sum_of(LossFunction& loss, LossChunk chunk) const = 0;
  // Adds rows of dy [N, width] into a table [V, width], each row's in token order. The row `skip` is left out. `order`:
  // room for N.
  virtual void scatter_add_rows(Dtype dtype, const void* dy, const MicroBatch& batch, int64_t width, int32_t skip,
                                void* table_gradient, Dtype gradient_dtype, int32_t* order) const = 0;

  virtual void copy(void* to, const void* from, int64_t bytes) const = 0;
  virtual void clear(void* at, int64_t bytes) const = 0;
};

std::unique_ptr<Ops> cpu_ops();

}  // namespace sluice::models
