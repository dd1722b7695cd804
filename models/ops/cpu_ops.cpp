#include <algorithm>
#include <cstring>

#include "models/ops/low_bit_kernels.h"
#include "models/ops/ops.h"

namespace sluice::models {
namespace {

class CpuOps final : public Ops {
 public:
  const Kernels& kernels(Dtype dtype) const override { return models::kernels(dtype); }

  void multiply_by_transposed(Dtype dtype, Matrix x, Matrix w, Target y) const override {
    models::multiply_by_transposed(dtype, x, w, y);
  }
  void multiply(Dtype dtype, Matrix x, Matrix w, Target y) const override { models::multiply(dtype, x, w, y); }
  void weight_gradient(Dtype dtype, Matrix a, Matrix b, GradientTarget y, void* temporary) const override {
    const bool direct = y.store == Store::overwrite && y.dtype == dtype;
    multiply_transposed_by(dtype, a, b, {direct ? y.data : temporary});
    if (!direct) kernels(dtype).store_gradient(temporary, y.data, y.dtype, y.store, a.columns * b.columns);
  }
  Bytes expanded_tile() const override { return MiB(64); }
  void expand(Dtype dtype, const StoredMatrix& from, MatrixRange range, void* to, int64_t stride) const override {
    low_bit_kernels().expand(dtype, from, range, to, stride);
  }
  void copy_range(Dtype dtype, Matrix from, MatrixRange range, void* to) const override {
    const int64_t each = size_of(dtype), width = range.columns * each;
    for (int64_t row = 0; row < range.rows; ++row)
      std::memcpy(static_cast<std::byte*>(to) + row * width,
                  static_cast<const std::byte*>(from.data) + ((range.row + row) * from.columns + range.column) * each,
                  static_cast<size_t>(width));
  }
  void store_runs(const float* runs, int64_t count, int64_t width, GradientTarget y) const override {
    models::store_runs(runs, count, width, y.data, y.dtype, y.store);
  }

  AttentionScratch cut_attention(Scratch& scratch, Pass pass, Dtype dtype, const AttentionShape& shape,
                                 int64_t tokens) const override {
    return models::cut_attention(scratch, pass, dtype, shape, tokens);
  }
  void attention(Dtype dtype, const AttentionShape& shape, const MicroBatch& batch, const void* qkv, void* output,
                 float* log_sum_exp, const AttentionScratch& scratch) const override {
    models::attention(dtype, shape, batch.document_starts, qkv, output, log_sum_exp, scratch);
  }
  void attention_backward(Dtype dtype, const AttentionShape& shape, const MicroBatch& batch, const void* qkv,
                          const void* output, const float* log_sum_exp, const void* output_gradient, void* qkv_gradient,
                          const AttentionScratch& scratch) const override {
    models::attention_backward(dtype, shape, batch.document_starts, qkv, output, log_sum_exp, output_gradient,
                               qkv_gradient, scratch);
  }

  Bytes logits_tile() const override { return MiB(48); }
  BatchNumbers numbers(const MicroBatch& batch) const override {
    return {batch.token_ids.data(), batch.positions.data()};
  }
  RopeAngles angles(RopeTable& table, int64_t positions) const override { return table.angles(positions); }
  SupervisedTokens supervised(const MicroBatch& batch, int32_t* rows, int32_t* labels) const override {
    int64_t count = 0;
    for (int64_t i = 0; i < batch.tokens; ++i)
      if (const int32_t label = batch.labels[static_cast<size_t>(i)]; label >= 0) {
        rows[count] = static_cast<int32_t>(i);
        labels[count++] = label;
      }
    return {count, rows, labels, rows, labels};
  }
  double sum_of(LossFunction& loss, LossChunk chunk) const override { return loss.sum(chunk); }
  void sum_losses(const double* losses, int64_t count, Store store, double& sum) const override {
    double added = 0;
    for (int64_t i = 0; i < count; ++i) added += losses[i];
    sum = store == Store::accumulate ? sum + added : added;
  }
  void scatter_add_rows(Dtype dtype, const void* dy, const MicroBatch& batch, int64_t width, int32_t skip,
                        void* table_gradient, Dtype gradient_dtype, int32_t* order) const override {
    models::scatter_add_rows(dy, dtype, batch.token_ids.data(), batch.tokens, width, skip, table_gradient,
                             gradient_dtype, order);
  }

  void copy(void* to, const void* from, int64_t bytes) const override {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void clear(void* at, int64_t bytes) const override { std::memset(at, 0, static_cast<size_t>(bytes)); }
};

}  // namespace

std::unique_ptr<Ops> cpu_ops() { return std::make_unique<CpuOps>(); }

}  // namespace sluice::models
