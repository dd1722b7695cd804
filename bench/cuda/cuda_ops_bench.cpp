// Row kernels of a GPU, in bytes that they must read and write per second, over what a plain addition of two vectors
// reaches on the same GPU; products and attention in FLOP/s beside LibTorch's own calls, cuDNN's attention among them;
// what it costs to enqueue a call. A Qwen2.5-7B layer, bf16 and f16.
//
//     build/release/cuda_ops_bench
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>

#include <chrono>
#include <cstdio>

#include "models/cuda/cuda_ops.h"
#include "models/cuda/stream.h"
#include "models/ops/scalar_type.h"
#include "optim/cuda/adamw_cuda.h"

namespace sluice::models::cuda {
namespace {

using at::Tensor;

constexpr int64_t kTokens = 8192, kHidden = 3584, kFfn = 18944, kVocabulary = 152064, kLogitRows = 512;
constexpr AttentionShape kAttention{28, 4, 128, 0, 0.08838835f};
constexpr int64_t kDocument = 2048;

// Seconds of one call, all of its work enqueued and done; the first calls warm caches up.
template <class Body>
double seconds_of(const Body& body) {
  constexpr int kCalls = 20;
  for (int i = 0; i < 3; ++i) body();
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  begin.record();
  for (int i = 0; i < kCalls; ++i) body();
  end.record();
  end.synchronize();
  return static_cast<double>(begin.elapsed_time(end)) / 1e3 / kCalls;
}

class Bench {
 public:
  explicit Bench(Dtype dtype) : dtype_(dtype) {
    std::printf("| op, %s | rate | over |\n|---|---|---|\n", std::string(name_of(dtype)).c_str());
    use_stream(at::cuda::getStreamFromPool(), 0);
    ops_ = make_cuda_ops({.tokens_max = kTokens, .micro_batches_max = 1, .positions_max = kDocument});
    std::vector<int32_t> ids(kTokens), positions(kTokens), starts;
    for (int64_t i = 0; i < kTokens; ++i) {
      ids[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7919 % kVocabulary);
      positions[static_cast<size_t>(i)] = static_cast<int32_t>(i % kDocument);
      if (i % kDocument == 0) starts.push_back(static_cast<int32_t>(i));
    }
    starts.push_back(kTokens);
    const MicroBatch batch{kTokens, ids, ids, positions, starts};
    ops_->place({&batch, 1});
    x_ = random({kTokens, kHidden}), y_ = random({kTokens, kHidden}), z_ = random({kTokens, kHidden});
    ceiling_ = 3.0 * bytes(x_) / seconds_of([&] { at::add_out(z_, x_, y_); });
    rows(batch);
    gates();
    magnitudes();
    logits();
    if (dtype == Dtype::bf16) updates();
    low_bits();
    products();
    attention(batch);
    cudnn_attention();
    enqueuing();
  }

 private:
  Tensor random(at::IntArrayRef sizes) const {
    return at::randn(sizes, at::device(at::kCUDA).dtype(scalar_type(dtype_)));
  }
  static double bytes(const Tensor& tensor) { return static_cast<double>(tensor.nbytes()); }
  const Kernels& k() const { return ops_->kernels(dtype_); }

  template <class Body>
  void memory(const std::string& name, double moved, const Body& body) {
    const double rate = moved / seconds_of(body);
    std::printf("| %s | %.0f GB/s | %.0f%% of an addition's |\n", name.c_str(), rate / 1e9, 100 * rate / ceiling_);
  }
  template <class Ours, class Theirs>
  void compute(const std::string& name, double flops, const Ours& ours, const Theirs& theirs) {
    const double rate = flops / seconds_of(ours), other = flops / seconds_of(theirs);
    std::printf("| %s | %.0f TFLOP/s | %.2f of LibTorch's |\n", name.c_str(), rate / 1e12, rate / other);
  }

  void rows(const MicroBatch& batch) {
    const Tensor w = random({kHidden}), runs = at::empty({runs_of(kTokens), kHidden}, w.options().dtype(at::kFloat));
    const Tensor table = random({kVocabulary, kHidden});
    Tensor gradient = at::zeros({kVocabulary, kHidden}, runs.options()), one = at::zeros({kHidden}, runs.options());
    OpReport& report = ops_->reports(1)[0];
    const double all = bytes(x_);
    memory("rms_norm", 2 * all,
           [&] { k().rms_norm(x_.data_ptr(), nullptr, w.data_ptr(), z_.data_ptr(), kTokens, kHidden, 1e-5f); });
    memory("rms_norm with addition", 4 * all,
           [&] { k().rms_norm(x_.data_ptr(), y_.data_ptr(), w.data_ptr(), z_.data_ptr(), kTokens, kHidden, 1e-5f); });
    memory("rms_norm_backward", 4 * all, [&] {
      k().rms_norm_backward(x_.data_ptr(), w.data_ptr(), y_.data_ptr(), y_.data_ptr(), z_.data_ptr(),
                            runs.data_ptr<float>(), kTokens, kHidden, 1e-5f);
    });
    memory("column_runs and store_runs", all, [&] {
      k().column_runs(x_.data_ptr(), runs.data_ptr<float>(), kTokens, kHidden);
      ops_->store_runs(runs.data_ptr<float>(), runs_of(kTokens), kHidden,
                       {one.data_ptr(), Dtype::f32, Store::overwrite});
    });
    memory("add", 3 * all, [&] { k().add(x_.data_ptr(), y_.data_ptr(), z_.data_ptr(), kTokens * kHidden); });
    memory("store_gradient, halves into fp32", (1 + 2 + 2) * all, [&] {
      k().store_gradient(x_.data_ptr(), gradient.data_ptr(), Dtype::f32, Store::accumulate, kTokens * kHidden);
    });
    memory("check_finite", all, [&] { ops_->check_finite(x_.data_ptr(), kTokens * kHidden, dtype_, report); });
    memory("gather_rows", 2 * all,
           [&] { k().gather_rows(table.data_ptr(), ops_->numbers(batch).token_ids, z_.data_ptr(), kTokens, kHidden); });
    memory("scatter_add_rows", (1 + 2 + 2) * all, [&] {
      ops_->scatter_add_rows(dtype_, x_.data_ptr(), batch, kHidden, -1, gradient.data_ptr(), Dtype::f32, nullptr);
    });
    const Tensor angles = at::rand({kDocument, kAttention.head_dim / 2}, runs.options());
    const Tensor qkv = random({kTokens, kAttention.row()});
    const Heads heads{kAttention.row(), 0, kAttention.heads + kAttention.kv_heads, kAttention.head_dim};
    memory("rope", 2.0 * kTokens * static_cast<double>(heads.count * heads.size) * 2, [&] {
      k().rope(qkv.data_ptr(), heads, ops_->numbers(batch).positions,
               {angles.data_ptr<float>(), angles.data_ptr<float>()}, 1, kTokens);
    });
  }

  void gates() {
    const Tensor gate_up = random({kTokens, 2 * kFfn}), dy = random({kTokens, kFfn});
    Tensor y = random({kTokens, kFfn});
    memory("swiglu", bytes(gate_up) + bytes(y), [&] { k().swiglu(gate_up.data_ptr(), y.data_ptr(), kTokens, kFfn); });
    memory("swiglu_backward", 2 * bytes(gate_up) + 2 * bytes(y), [&] {
      k().swiglu_backward(gate_up.data_ptr(), dy.data_ptr(), gate_up.data_ptr(), y.data_ptr(), kTokens, kFfn);
    });
    memory("dropout", 2 * bytes(y), [&] {
      k().dropout(dy.data_ptr(), y.data_ptr(), kTokens * kFfn, 0.1f, {1, 2, 3, 4});
    });
  }

  // DoRA's: the columns of one projection among two, and the rows of its weights.
  void magnitudes() {
    const Tensor w = random({kFfn, kHidden}), low_rank = random({kFfn, kHidden}), x = random({kTokens, 2 * kFfn});
    const Tensor z = random({kTokens, kFfn});
    const Tensor norms = at::rand({kFfn}, w.options().dtype(at::kFloat)) + 0.5;
    const Tensor runs = at::empty({runs_of(kTokens), kFfn}, norms.options());
    memory("row_norms", bytes(w) + bytes(low_rank),
           [&] { k().row_norms(w.data_ptr(), low_rank.data_ptr(), 2, norms.data_ptr<float>(), kFfn, kHidden); });
    memory("scale_columns", 2 * bytes(z), [&] {
      k().scale_columns(x.data_ptr(), 2 * kFfn, norms.data_ptr<float>(), 0, z.data_ptr(), kFfn, Store::overwrite,
                        kTokens, kFfn);
    });
    memory("product_runs", 2 * bytes(z), [&] {
      k().product_runs(x.data_ptr(), 2 * kFfn, z.data_ptr(), norms.data_ptr<float>(), runs.data_ptr<float>(), kTokens,
                       kFfn);
    });
  }

  void logits() {
    const Tensor logits = random({kLogitRows, kVocabulary});
    const Tensor labels = at::arange(kLogitRows, at::device(at::kCUDA).dtype(at::kInt));
    const Tensor losses = at::empty({kLogitRows}, at::device(at::kCUDA).dtype(at::kDouble));
    memory("cross_entropy and its gradient", 2 * bytes(logits), [&] {
      k().cross_entropy(logits.data_ptr(), labels.data_ptr<int32_t>(), losses.data_ptr<double>(), 1, true, kLogitRows,
                        kVocabulary);
    });
  }

  // Of one group: bf16 weights with their low halves, fp32 gradient, m and v.
  void updates() {
    constexpr int64_t kElements = 64 << 20;
    const auto floats = at::device(at::kCUDA).dtype(at::kFloat);
    const Tensor gradient = at::randn({kElements}, floats), m = at::zeros({kElements}, floats), v = at::zeros_like(m);
    const Tensor hi = random({kElements}), lo = at::zeros({kElements}, floats.dtype(at::kShort));
    const Tensor runs = at::empty({kElements / optim::kNormRunElements}, floats.dtype(at::kDouble));
    const Tensor scales = at::zeros({2 * kElements / kStateBlock}, floats);
    optim::cuda::load_dynamic_tables();
    const auto update = [&](MomentFormat moments) {
      optim::cuda::update({.learning_rate = 1e-4},
                          {.count = kElements,
                           .weight_dtype = Dtype::bf16,
                           .weights = hi.data_ptr(),
                           .master = lo.data_ptr(),
                           .gradients = gradient.data_ptr(),
                           .moments = moments,
                           .m = m.data_ptr(),
                           .v = v.data_ptr(),
                           .m_scales = scales.data_ptr<float>(),
                           .v_scales = scales.data_ptr<float>() + kElements / kStateBlock},
                          stream());
    };
    memory("AdamW", 28.0 * kElements, [&] { update(MomentFormat::f32); });
    memory("AdamW, moments in bf16", 20.0 * kElements, [&] { update(MomentFormat::bf16); });
    memory("AdamW, moments in 8 bits", 16.0625 * kElements, [&] { update(MomentFormat::int8); });
    memory("norm of a gradient", bytes(gradient), [&] {
      optim::cuda::squared_norm(gradient.data_ptr(), Dtype::f32, kElements, runs.data_ptr<double>(), stream());
    });
  }

  // The gate and up projections of a layer, NF4 with double quantisation.
  void low_bits() {
    constexpr int64_t kRows = 2 * kFfn, kElements = kRows * kHidden, kBlocks = kElements / kLowBitBlock;
    const auto byte = at::device(at::kCUDA).dtype(at::kByte);
    const Tensor codes = at::randint(256, {kElements / 2}, byte), scales = at::randint(256, {kBlocks}, byte);
    const Tensor nested = at::rand({kBlocks / kLowBitScaleBlock + 1}, byte.dtype(at::kFloat));
    const StoredMatrix from{{LowBit::nf4, true},
                            kRows,
                            kHidden,
                            static_cast<const std::byte*>(codes.data_ptr()),
                            static_cast<const std::byte*>(scales.data_ptr()),
                            nested.data_ptr<float>(),
                            nested.data_ptr<float>()};
    const Tensor out = random({kRows, kHidden});
    memory("weights in NF4 expanded", bytes(codes) + bytes(scales) + bytes(out), [&] {
      ops_->expand(dtype_, from, {0, kRows, 0, kHidden}, out.data_ptr(), kHidden);
    });
  }

  void products() {
    const Tensor w = random({2 * kFfn, kHidden}), y = random({kTokens, 2 * kFfn});
    Tensor out = at::empty_like(y), dx = at::empty_like(x_), dw = at::empty_like(w);
    Tensor sum = at::zeros(w.sizes(), w.options().dtype(at::kFloat));
    const double flops = 2.0 * kTokens * kHidden * 2 * kFfn;
    const Matrix x{x_.data_ptr(), kTokens, kHidden}, weights{w.data_ptr(), 2 * kFfn, kHidden};
    const Matrix dy{y.data_ptr(), kTokens, 2 * kFfn};
    compute(
        "product x w^T", flops, [&] { ops_->multiply_by_transposed(dtype_, x, weights, {out.data_ptr()}); },
        [&] { at::mm_out(out, x_, w.t()); });
    compute(
        "product dy w", flops, [&] { ops_->multiply(dtype_, dy, weights, {dx.data_ptr()}); },
        [&] { at::mm_out(dx, y, w); });
    compute(
        "product dy^T x, halves", flops,
        [&] {
          ops_->weight_gradient(dtype_, dy, x, {dw.data_ptr(), dtype_, Store::overwrite}, nullptr);
        },
        [&] { at::mm_out(dw, y.t(), x_); });
    compute(
        "product dy^T x, added to fp32", flops,
        [&] {
          ops_->weight_gradient(dtype_, dy, x, {sum.data_ptr(), Dtype::f32, Store::accumulate}, nullptr);
        },
        [&] { sum.add_(at::mm_out(dw, y.t(), x_)); });
  }

  void attention(const MicroBatch& batch) {
    const int64_t h = kAttention.heads, d = kAttention.head_dim;
    const Tensor qkv = random({kTokens, kAttention.row()}), dy = random({kTokens, h * d});
    Tensor y = at::empty_like(dy), gradient = at::empty_like(qkv);
    const Tensor sums = at::empty({h, kTokens}, qkv.options().dtype(at::kFloat));
    const double pairs = static_cast<double>(kTokens) * kDocument / 2, flops = 4.0 * pairs * static_cast<double>(h * d);
    const auto forward = [&] {
      ops_->attention(dtype_, kAttention, batch, qkv.data_ptr(), y.data_ptr(), sums.data_ptr<float>(), {});
    };
    const double rate = flops / seconds_of(forward);
    const double back = 2.5 * flops / seconds_of([&] {
                          ops_->attention_backward(dtype_, kAttention, batch, qkv.data_ptr(), y.data_ptr(),
                                                   sums.data_ptr<float>(), dy.data_ptr(), gradient.data_ptr(), {});
                        });
    std::printf("| attention, documents of %lld | %.0f TFLOP/s | |\n", static_cast<long long>(kDocument), rate / 1e12);
    std::printf("| attention backward, deterministic | %.0f TFLOP/s | |\n", back / 1e12);
  }

  // The candidate beside flash attention, by LibTorch: rows of whole documents. Whether its backward adds in one order
  // is seen, not known.
  void cudnn_attention() const try {
    const int64_t h = kAttention.heads, kv = kAttention.kv_heads, d = kAttention.head_dim, rows = kTokens / kDocument;
    const Tensor qkv = random({rows, kDocument, h + 2 * kv, d});
    const auto heads = [&](int64_t first, int64_t count) { return qkv.narrow(2, first, count).transpose(1, 2); };
    const Tensor q = heads(0, h), k = heads(h, kv), v = heads(h + kv, kv);
    const Tensor dy = random({rows, kDocument, h, d}).transpose(1, 2), none;
    const double scale = static_cast<double>(kAttention.scale);
    const auto forward = [&] {
      return at::_cudnn_attention_forward(q, k, v, std::nullopt, std::nullopt, std::nullopt, kDocument, kDocument,
                                          /*compute_log_sumexp=*/true, /*dropout_p=*/0.0, /*is_causal=*/true,
                                          /*return_debug_mask=*/false, scale);
    };
    const auto saved = forward();
    const auto backward = [&] {
      return at::_cudnn_attention_backward(dy, q, k, v, std::get<0>(saved), std::get<1>(saved), std::get<6>(saved),
                                           std::get<7>(saved), none, none, none, kDocument, kDocument,
                                           /*dropout_p=*/0.0, /*is_causal=*/true, scale);
    };
    const double pairs = static_cast<double>(kTokens) * kDocument / 2, flops = 4.0 * pairs * static_cast<double>(h * d);
    const Tensor first = std::get<0>(backward());
    bool same = true;
    for (int i = 0; i < 5; ++i) same = same && std::get<0>(backward()).equal(first);
    std::printf("| attention by cuDNN | %.0f TFLOP/s | |\n", flops / seconds_of(forward) / 1e12);
    std::printf("| attention backward by cuDNN, %s | %.0f TFLOP/s | |\n",
                same ? "the same bits" : "other bits each time", 2.5 * flops / seconds_of(backward) / 1e12);
  } catch (const c10::Error& error) {
    std::printf("| attention by cuDNN | refused: %.200s | |\n", error.what_without_backtrace());
  }

  // On the host, of calls that the GPU is done with long before: what a graph of them could save.
  void enqueuing() {
    const Tensor small = random({64, kHidden}), w = random({kHidden, kHidden}), y = at::empty_like(small);
    const auto cost = [&](const char* name, const auto& body) {
      constexpr int kCalls = 200;
      body();
      at::cuda::getCurrentCUDAStream().synchronize();
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < kCalls; ++i) body();
      const std::chrono::duration<double, std::micro> spent = std::chrono::steady_clock::now() - begin;
      at::cuda::getCurrentCUDAStream().synchronize();
      std::printf("| enqueuing %s | %.1f us | |\n", name, spent.count() / kCalls);
    };
    cost("a row kernel", [&] { k().add(small.data_ptr(), y.data_ptr(), y.data_ptr(), 64 * kHidden); });
    cost("a product", [&] {
      ops_->multiply_by_transposed(dtype_, {small.data_ptr(), 64, kHidden}, {w.data_ptr(), kHidden, kHidden},
                                   {y.data_ptr()});
    });
  }

  Dtype dtype_;
  std::unique_ptr<Ops> ops_;
  Tensor x_, y_, z_;
  double ceiling_ = 0;
};

}  // namespace
}  // namespace sluice::models::cuda

int main() {
  if (!at::hasCUDA() || at::cuda::device_count() == 0) {
    std::printf("no GPU here\n");
    return 0;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what was measured is not lost when a later op fails
  for (const sluice::Dtype dtype : {sluice::Dtype::bf16, sluice::Dtype::f16})
    const sluice::models::cuda::Bench bench(dtype);
}
