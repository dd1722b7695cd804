#include "models/cuda/cuda_ops.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "models/cuda/attention.h"
#include "models/cuda/element_kernels.h"
#include "models/cuda/gemm.h"
#include "models/cuda/index_kernels.h"
#include "models/cuda/loss_kernels.h"
#include "models/cuda/low_bit_kernels.h"
#include "models/cuda/magnitude_kernels.h"
#include "models/cuda/norm_kernels.h"
#include "models/cuda/placed_batches.h"
#include "models/cuda/stream.h"
#include "models/cuda/sum_kernels.h"
#include "models/ops/element.h"
#include "runtime/core/check.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"

namespace sluice::models::cuda {
namespace {

template <class T>
constexpr Kernels table_of() {
  return {.rms_norm = rms_norm<T>,
          .rms_norm_backward = rms_norm_backward<T>,
          .head_norm = head_norm<T>,
          .head_norm_backward = head_norm_backward<T>,
          .rope = rope<T>,
          .swiglu = swiglu<T>,
          .swiglu_backward = swiglu_backward<T>,
          .add_bias = add_bias<T>,
          .column_runs = column_runs<T>,
          .add = add<T>,
          .scale = scale<T>,
          .dropout = dropout<T>,
          .cross_entropy = cross_entropy<T>,
          .gather_rows = gather_rows<T>,
          .scatter_rows = scatter_rows<T>,
          .store_gradient = store_gradient<T>,
          .row_norms = row_norms<T>,
          .magnitude_factors = magnitude_factors<T>,
          .scale_columns = scale_columns<T>,
          .product_runs = product_runs<T>};
}
constexpr Kernels kTables[kElementTypes] = {table_of<float>(), table_of<__nv_bfloat16>(), table_of<__half>()};

// Memory of the host that the GPU writes to.
class Reports {
 public:
  std::span<OpReport> zeroed(size_t count) {
    const Bytes bytes{static_cast<int64_t>(count * sizeof(OpReport))};
    if (bytes.count > static_cast<int64_t>(memory_.bytes().size()))
      memory_ = CudaMemory(CudaMemoryKind::pinned, bytes, "reports of ops");
    std::fill_n(memory_.as<OpReport>(), count, OpReport{});
    return {memory_.as<OpReport>(), count};
  }

 private:
  CudaMemory memory_;
};

// A RopeTable's angles on the device: cos, then sin.
class Angles {
 public:
  explicit Angles(int64_t positions_max) : positions_max_(positions_max) {}

  RopeAngles of(RopeTable& table, int64_t positions) {
    SLUICE_CHECK(positions <= positions_max_, "a document longer than the device has angles for");
    if (table_ == nullptr) upload(table);
    SLUICE_CHECK(table_ == &table, "models with different angles on one device");
    return {memory_.as<float>(), memory_.as<float>() + count(table)};
  }

 private:
  int64_t count(const RopeTable& table) const { return positions_max_ * table.rotations(); }
  void upload(RopeTable& table) {
    const auto bytes = static_cast<size_t>(count(table)) * sizeof(float);
    const RopeAngles angles = table.angles(positions_max_);
    memory_ = CudaMemory(CudaMemoryKind::device, Bytes{2 * static_cast<int64_t>(bytes)}, "rotation angles");
    float* at = memory_.as<float>();
    copy_to_device(at, {reinterpret_cast<const std::byte*>(angles.cos), bytes}, "the angles");
    copy_to_device(at + count(table), {reinterpret_cast<const std::byte*>(angles.sin), bytes}, "the angles");
    table_ = &table;
  }

  int64_t positions_max_;
  CudaMemory memory_;
  const RopeTable* table_ = nullptr;
};

// A copy of logits in pinned memory of the host, for a loss that wants them there.
class HostLogits {
 public:
  double sum_of(LossFunction& loss, LossChunk chunk) {
    const Bytes bytes{chunk.rows() * chunk.vocabulary * size_of(Dtype::f32)};
    if (bytes.count > static_cast<int64_t>(memory_.bytes().size())) {
      wait();  // the gradient of an earlier chunk may still be read from it
      memory_ = CudaMemory(CudaMemoryKind::pinned, bytes, "logits of a loss of one's own");
    }
    float* const on_device = std::exchange(chunk.logits, memory_.as<float>());
    const auto size = static_cast<size_t>(bytes.count);
    check_cuda(cudaMemcpyAsync(chunk.logits, on_device, size, cudaMemcpyDeviceToHost, stream()), "copying logits");
    wait();
    const double sum = loss.sum(chunk);
    // Whoever writes to this memory next is enqueued behind.
    if (chunk.wants_gradient)
      check_cuda(cudaMemcpyAsync(on_device, chunk.logits, size, cudaMemcpyHostToDevice, stream()),
                 "copying the gradient of logits");
    return sum;
  }

 private:
  static void wait() { check_cuda(cudaStreamSynchronize(stream()), "waiting for logits"); }

  CudaMemory memory_;
};

class CudaOps final : public Ops {
 public:
  explicit CudaOps(const CudaOpsOptions& options)
      : device_((check_cuda(cudaSetDevice(options.device), "choosing GPU " + std::to_string(options.device)),
                 options.device)),
        batches_(options.tokens_max, options.micro_batches_max),
        angles_(options.positions_max),
        attention_(options.device,
                   options.deterministic ? AttentionBackward::deterministic : AttentionBackward::fastest,
                   {options.tokens_max / options.micro_batches_max, options.positions_max}) {}

  void place(std::span<const MicroBatch> batches) override {
    check_cuda(cudaSetDevice(device_), "choosing GPU " + std::to_string(device_));
    batches_.place(batches);
  }
  std::span<OpReport> reports(size_t count) override { return reports_.zeroed(count); }
  void check_finite(const void* elements, int64_t count, Dtype dtype, OpReport& report) const override {
    cuda::check_finite(elements, count, dtype, &report.not_finite);
  }

  const Kernels& kernels(Dtype dtype) const override { return kTables[element_type(dtype)]; }

  void multiply_by_transposed(Dtype dtype, Matrix x, Matrix w, Target y) const override {
    gemm_.multiply({dtype, Transposed::second, x, w, y.data, y.stride, dtype, y.into});
  }
  void multiply(Dtype dtype, Matrix x, Matrix w, Target y) const override {
    gemm_.multiply({dtype, Transposed::neither, x, w, y.data, y.stride, dtype, y.into});
  }
  // The sum with what is there happens inside the product, in fp32.
  void weight_gradient(Dtype dtype, Matrix a, Matrix b, GradientTarget y, void*) const override {
    gemm_.multiply({dtype, Transposed::first, a, b, y.data, 0, y.dtype,
                    y.store == Store::accumulate ? Into::accumulate : Into::overwrite});
  }
  // Large enough that products are efficient, small beside a card's memory: a 110B model's gate|up takes 1.6 GB in all.
  Bytes expanded_tile() const override { return MiB(512); }
  void expand(Dtype dtype, const StoredMatrix& from, MatrixRange range, void* to, int64_t stride) const override {
    cuda::expand(low_bits_, dtype, from, range, to, stride);
  }
  void copy_range(Dtype dtype, Matrix from, MatrixRange range, void* to) const override {
    const auto each = static_cast<size_t>(size_of(dtype)), width = static_cast<size_t>(range.columns) * each;
    const auto pitch = static_cast<size_t>(from.columns) * each;
    const auto* begin = static_cast<const std::byte*>(from.data) + static_cast<size_t>(range.row) * pitch +
                        static_cast<size_t>(range.column) * each;
    check_cuda(cudaMemcpy2DAsync(to, width, begin, pitch, width, static_cast<size_t>(range.rows),
                                 cudaMemcpyDeviceToDevice, stream()),
               "copying a part of a matrix");
  }
  void store_runs(const float* runs, int64_t count, int64_t width, GradientTarget y) const override {
    cuda::store_runs(runs, count, width, y);
  }

  AttentionScratch cut_attention(Scratch&, Pass, Dtype, const AttentionShape&, int64_t) const override { return {}; }
  void attention(Dtype dtype, const AttentionShape& shape, const MicroBatch& batch, const void* qkv, void* output,
                 float* log_sum_exp, const AttentionScratch&) const override {
    attention_.forward(dtype, shape, documents(batch), qkv, output, log_sum_exp);
  }
  void attention_backward(Dtype dtype, const AttentionShape& shape, const MicroBatch& batch, const void* qkv,
                          const void* output, const float* log_sum_exp, const void* output_gradient, void* qkv_gradient,
                          const AttentionScratch&) const override {
    attention_.backward(dtype, shape, documents(batch), qkv, output, log_sum_exp, output_gradient, qkv_gradient);
  }

  // Of a 7B model's head (152,064 x 3,584), 1,700 rows: 8,192 tokens add to its fp32 gradient five times, 22 GB beside
  // 27 TFLOP of products.
  Bytes logits_tile() const override { return MiB(512); }
  BatchNumbers numbers(const MicroBatch& batch) const override {
    const PlacedBatch& placed = batches_.of(batch);
    return {placed.token_ids, placed.positions};
  }
  RopeAngles angles(RopeTable& table, int64_t positions) const override { return angles_.of(table, positions); }
  SupervisedTokens supervised(const MicroBatch& batch, int32_t*, int32_t*) const override {
    return batches_.of(batch).supervised;
  }
  void sum_losses(const double* losses, int64_t count, Store store, double& sum) const override {
    cuda::sum_losses(losses, count, store, &sum);
  }
  double sum_of(LossFunction& loss, LossChunk chunk) const override {
    if (!loss.on_gpu()) return host_logits_.sum_of(loss, chunk);
    chunk.gpu = device_;
    chunk.stream = stream();
    return loss.sum(chunk);
  }
  void scatter_add_rows(Dtype dtype, const void* dy, const MicroBatch& batch, int64_t width, int32_t skip,
                        void* table_gradient, Dtype gradient_dtype, int32_t*) const override {
    cuda::scatter_add_rows(dtype, dy, batches_.of(batch).sorted, width, skip, table_gradient, gradient_dtype);
  }

  void copy(void* to, const void* from, int64_t bytes) const override {
    check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream()), "copying");
  }
  void clear(void* at, int64_t bytes) const override {
    check_cuda(cudaMemsetAsync(at, 0, static_cast<size_t>(bytes), stream()), "clearing");
  }

 private:
  Documents documents(const MicroBatch& batch) const {
    const PlacedBatch& placed = batches_.of(batch);
    return {batch.document_starts, placed.document_starts, batch.tokens, placed.longest_document};
  }

  int device_;
  LowBitTables low_bits_;
  PlacedBatches batches_;
  Reports reports_;
  // Caches and room: what they give back never depends on what was asked before.
  mutable Angles angles_;
  mutable Gemm gemm_;
  mutable Attention attention_;
  mutable HostLogits host_logits_;
};

}  // namespace

Bytes device_bytes(const CudaOpsOptions& options, int64_t head_dim) {
  const Bytes angles{options.positions_max * head_dim * static_cast<int64_t>(sizeof(float))};
  return PlacedBatches::bytes(options.tokens_max, options.micro_batches_max) + angles + Gemm::kWorkspace;
}

std::unique_ptr<Ops> make_cuda_ops(const CudaOpsOptions& options) { return std::make_unique<CudaOps>(options); }

}  // namespace sluice::models::cuda
