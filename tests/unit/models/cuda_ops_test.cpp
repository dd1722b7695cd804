// Every op of a GPU against the same formula in LibTorch: in double for the truth, in the op's own type for the error
// that this type costs anybody. Ours may err twice as much. Skips where there is no GPU.
#include "models/cuda/cuda_ops.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/core/GradMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <random>

#include "models/cuda/self_check.h"
#include "models/cuda/stream.h"
#include "models/ops/low_bit_kernels.h"
#include "models/ops/scalar_type.h"
#include "runtime/core/cuda_error.h"

namespace sluice::models::cuda {
namespace {

using at::Tensor;

class CudaOpsTest : public testing::TestWithParam<Dtype> {
 protected:
  static constexpr int64_t kTokens = 2048;

  void SetUp() override {
    if (!at::hasCUDA() || at::cuda::device_count() == 0) GTEST_SKIP() << "no GPU here";
    use_stream(at::cuda::getStreamFromPool(), 0);
    ops_ = make_cuda_ops({.tokens_max = 2 * kTokens, .micro_batches_max = 2, .positions_max = kTokens});
    std::random_device device;
    seed_ = device();
    RecordProperty("seed", static_cast<int>(seed_ >> 1));
    at::manual_seed(seed_);
  }

  Dtype dtype() const { return GetParam(); }
  at::ScalarType type() const { return scalar_type(dtype()); }
  const Kernels& k() const { return ops_->kernels(dtype()); }
  Tensor random(at::IntArrayRef sizes) const { return at::randn(sizes, at::device(at::kCUDA).dtype(type())); }
  Tensor room(at::IntArrayRef sizes) const { return at::full(sizes, 7, at::device(at::kCUDA).dtype(type())); }
  static Tensor numbers(const std::vector<int32_t>& values) { return at::tensor(values, at::kInt).to(at::kCUDA); }

  using Formula = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
  // `ours`: results, in the order of the formula's.
  void expect_close(const std::vector<Tensor>& ours, const std::vector<Tensor>& inputs, const Formula& formula) const {
    std::vector<Tensor> exact;
    for (const Tensor& input : inputs) exact.push_back(input.is_floating_point() ? input.to(at::kDouble) : input);
    const std::vector<Tensor> truth = formula(exact), theirs = formula(inputs);
    for (size_t i = 0; i < ours.size(); ++i) {
      const auto error = [&](const Tensor& value) {
        return (value.to(at::kDouble) - truth[i]).abs().max().item<double>();
      };
      // Formulas may go on in a wider type: what is stored is not.
      const double size = truth[i].abs().max().item<double>();
      EXPECT_LE(error(ours[i]), 2 * error(theirs[i].to(ours[i].scalar_type())) + 1e-6 * size)
          << "result " << i << ", seed " << seed_;
    }
  }

  std::unique_ptr<Ops> ops_;
  uint64_t seed_ = 0;
};

// Odd widths take the kernels that load single elements.
constexpr std::array<int64_t, 4> kWidths = {576, 4096, 8192, 93};

Tensor normed(const Tensor& x, double epsilon) { return x * (x.square().mean(-1, true) + epsilon).rsqrt(); }
// d(normed(x) * w) / dx * dy, and the gradient of w.
std::vector<Tensor> norm_gradients(const Tensor& x, const Tensor& w, const Tensor& dy, double epsilon) {
  const Tensor scale = (x.square().mean(-1, true) + epsilon).rsqrt(), n = x * scale, dn = dy * w;
  return {scale * (dn - n * (dn * n).mean(-1, true)), (dy * n).sum(0)};
}

TEST_P(CudaOpsTest, RmsNorm) {
  for (const int64_t width : kWidths) {
    Tensor x = random({700, width});
    const Tensor w = random({width}), added = random({700, width}), y = room({700, width});
    const Tensor before = x.clone();
    k().rms_norm(x.data_ptr(), added.data_ptr(), w.data_ptr(), y.data_ptr(), 700, width, 1e-5f);
    expect_close({x, y}, {before, added, w}, [](const auto& in) {
      const Tensor sum = in[0] + in[1];
      return std::vector<Tensor>{sum, normed(sum, 1e-5) * in[2]};
    });
  }
}

TEST_P(CudaOpsTest, RmsNormBackward) {
  for (const int64_t width : kWidths) {
    constexpr int64_t kRows = 700;
    const Tensor x = random({kRows, width}), w = random({width}), residual = random({kRows, width});
    Tensor dy = random({kRows, width});
    const Tensor dy_before = dy.clone(), dw = at::empty({width}, at::device(at::kCUDA).dtype(at::kFloat));
    const Tensor runs = at::empty({runs_of(kRows), width}, dw.options());
    // The result lies over dy, as the head wants it.
    k().rms_norm_backward(x.data_ptr(), w.data_ptr(), dy.data_ptr(), residual.data_ptr(), dy.data_ptr(),
                          runs.data_ptr<float>(), kRows, width, 1e-5f);
    ops_->store_runs(runs.data_ptr<float>(), runs_of(kRows), width, {dw.data_ptr(), Dtype::f32, Store::overwrite});
    expect_close({dy, dw}, {x, w, dy_before, residual}, [](const auto& in) {
      std::vector<Tensor> gradients = norm_gradients(in[0], in[1], in[2], 1e-5);
      gradients[0] = gradients[0] + in[3];
      return gradients;
    });
  }
}

TEST_P(CudaOpsTest, HeadNormBothWays) {
  constexpr int64_t kRows = 300, kHeads = 6, kAll = 9;
  for (const int64_t size : {64, 128, 24}) {
    const Heads heads{kAll * size, size, kHeads, size};
    Tensor x = random({kRows, kAll, size}), y = x.clone(), dy = random({kRows, kAll, size});
    const Tensor w = random({size}), dy_before = dy.clone();
    const Tensor runs = at::empty({runs_of(kRows), size}, at::device(at::kCUDA).dtype(at::kFloat));
    const Tensor dw = at::empty({size}, runs.options());
    k().head_norm(y.data_ptr(), w.data_ptr(), y.data_ptr(), heads, kRows, 1e-5f);
    k().head_norm_backward(x.data_ptr(), w.data_ptr(), dy.data_ptr(), dy.data_ptr(), runs.data_ptr<float>(), heads,
                           kRows, 1e-5f);
    ops_->store_runs(runs.data_ptr<float>(), runs_of(kRows), size, {dw.data_ptr(), Dtype::f32, Store::overwrite});
    const auto part = [](const Tensor& all) { return all.narrow(1, 1, kHeads); };
    EXPECT_TRUE(y.select(1, 0).equal(x.select(1, 0))) << "a head outside of the range changed";
    expect_close({part(y), part(dy), dw}, {part(x), w, part(dy_before)}, [](const auto& in) {
      std::vector<Tensor> gradients = norm_gradients(in[0], in[1], in[2], 1e-5);
      return std::vector<Tensor>{normed(in[0], 1e-5) * in[1], gradients[0], gradients[1].sum(0)};
    });
  }
}

TEST_P(CudaOpsTest, RopeTurnsAndTurnsBack) {
  constexpr int64_t kRows = 300, kHeads = 5;
  for (const int64_t size : {64, 128, 24, 6}) {
    const Heads heads{kHeads * size, size, kHeads - 1, size};
    const Tensor angle = at::randn({kRows, size / 2}, at::device(at::kCUDA).dtype(at::kFloat));
    const Tensor cos = angle.cos(), sin = angle.sin();
    std::vector<int32_t> positions(kRows);
    for (int64_t i = 0; i < kRows; ++i) positions[static_cast<size_t>(i)] = static_cast<int32_t>(i * 7 % kRows);
    const Tensor at_positions = numbers(positions);
    const RopeAngles angles{cos.data_ptr<float>(), sin.data_ptr<float>()};
    const Tensor before = random({kRows, kHeads, size});
    Tensor x = before.clone();
    k().rope(x.data_ptr(), heads, at_positions.data_ptr<int32_t>(), angles, 1, kRows);
    const auto part = [](const Tensor& all) { return all.narrow(1, 1, kHeads - 1); };
    expect_close({part(x)}, {part(before), cos, sin, at_positions}, [size](const auto& in) {
      const Tensor c = in[1].index_select(0, in[3]).unsqueeze(1), s = in[2].index_select(0, in[3]).unsqueeze(1);
      const Tensor low = in[0].narrow(2, 0, size / 2), high = in[0].narrow(2, size / 2, size / 2);
      return std::vector<Tensor>{at::cat({low * c - high * s, high * c + low * s}, 2)};
    });
    EXPECT_TRUE(x.select(1, 0).equal(before.select(1, 0))) << "a head outside of the range changed";
    k().rope(x.data_ptr(), heads, at_positions.data_ptr<int32_t>(), angles, -1, kRows);
    EXPECT_LT((x - before).abs().max().item<double>(), dtype() == Dtype::f32    ? 1e-5
                                                       : dtype() == Dtype::bf16 ? 0.1
                                                                                : 0.02);
  }
}

TEST_P(CudaOpsTest, SwigluBothWays) {
  for (const int64_t ffn : {1536, 93}) {
    constexpr int64_t kRows = 300;
    const Tensor gate_up = random({kRows, 2 * ffn}), dy = random({kRows, ffn});
    Tensor y = room({kRows, ffn}), again = room({kRows, ffn}), gradient = gate_up.clone();
    k().swiglu(gate_up.data_ptr(), y.data_ptr(), kRows, ffn);
    k().swiglu_backward(gradient.data_ptr(), dy.data_ptr(), gradient.data_ptr(), again.data_ptr(), kRows, ffn);
    EXPECT_TRUE(again.equal(y)) << "recomputed otherwise";
    expect_close({y, gradient}, {gate_up, dy}, [ffn](const auto& in) {
      const Tensor gate = in[0].narrow(1, 0, ffn), up = in[0].narrow(1, ffn, ffn), s = gate.sigmoid();
      return std::vector<Tensor>{gate * s * up, at::cat({in[1] * up * s * (1 + gate * (1 - s)), in[1] * gate * s}, 1)};
    });
  }
}

TEST_P(CudaOpsTest, ElementsAddScaleAndSumUp) {
  for (const int64_t width : kWidths) {
    constexpr int64_t kRows = 130;
    const Tensor a = random({kRows, width}), b = random({kRows, width}), bias = random({width});
    Tensor sum = room({kRows, width}), scaled = a.clone(), biased = a.clone();
    const Tensor runs = at::empty({runs_of(kRows), width}, at::device(at::kCUDA).dtype(at::kFloat));
    Tensor columns = at::zeros({width}, runs.options()), gradient = at::ones({kRows, width}, runs.options());
    k().add(a.data_ptr(), b.data_ptr(), sum.data_ptr(), kRows * width);
    k().scale(scaled.data_ptr(), 0.3f, kRows * width);
    k().add_bias(biased.data_ptr(), bias.data_ptr(), kRows, width);
    k().column_runs(a.data_ptr(), runs.data_ptr<float>(), kRows, width);
    ops_->store_runs(runs.data_ptr<float>(), runs_of(kRows), width,
                     {columns.data_ptr(), Dtype::f32, Store::accumulate});
    k().store_gradient(a.data_ptr(), gradient.data_ptr(), Dtype::f32, Store::accumulate, kRows * width);
    expect_close({sum, scaled, biased, columns, gradient}, {a, b, bias}, [](const auto& in) {
      return std::vector<Tensor>{in[0] + in[1], in[0] * 0.3, in[0] + in[2], in[0].sum(0), in[0] + 1};
    });
  }
}

TEST_P(CudaOpsTest, MagnitudesScaleColumnsByNormsOfRows) {
  for (const int64_t width : kWidths) {
    constexpr int64_t kRows = 130;
    const Tensor w = random({kRows, width}), more = random({kRows, width}), magnitudes = random({kRows});
    const Tensor norms = at::empty({kRows}, at::device(at::kCUDA).dtype(at::kFloat)), alone = at::empty_like(norms);
    Tensor factors = at::empty_like(norms);
    k().row_norms(w.data_ptr(), more.data_ptr(), 0.5f, norms.data_ptr<float>(), kRows, width);
    k().row_norms(w.data_ptr(), nullptr, 0, alone.data_ptr<float>(), kRows, width);
    k().magnitude_factors(magnitudes.data_ptr(), norms.data_ptr<float>(), factors.data_ptr<float>(), kRows);
    expect_close({norms, alone, factors}, {w, more, magnitudes}, [](const auto& in) {
      const Tensor both = (in[0] + in[1] * 0.5).norm(2, 1);
      return std::vector<Tensor>{both, in[0].norm(2, 1), in[2] / both};
    });
    alone.zero_();
    k().magnitude_factors(magnitudes.data_ptr(), alone.data_ptr<float>(), factors.data_ptr<float>(), kRows);
    EXPECT_TRUE(factors.equal(alone)) << "a row of zeros has no direction, and gets no factor";
  }
}

// Columns in the middle of a row, as of one projection among several, and a matrix of its own.
TEST_P(CudaOpsTest, ColumnsAreScaledAndTheirProductsSummed) {
  for (const int64_t width : {int64_t{576}, int64_t{4096}, int64_t{93}}) {
    constexpr int64_t kRows = 130;
    const int64_t stride = 3 * width;
    const Tensor x = random({kRows, width}), before = random({kRows, stride});
    const Tensor factors = at::rand({width}, at::device(at::kCUDA).dtype(at::kFloat)) + 0.5;
    Tensor added = before.clone(), in_place = before.clone(), apart = room({kRows, width});
    const auto middle = [&](const Tensor& all) { return all.narrow(1, width, width); };
    k().scale_columns(x.data_ptr(), width, factors.data_ptr<float>(), -1, middle(added).data_ptr(), stride,
                      Store::accumulate, kRows, width);
    k().scale_columns(middle(in_place).data_ptr(), stride, factors.data_ptr<float>(), 0, middle(in_place).data_ptr(),
                      stride, Store::overwrite, kRows, width);
    k().scale_columns(middle(before).data_ptr(), stride, factors.data_ptr<float>(), 0, apart.data_ptr(), width,
                      Store::overwrite, kRows, width);
    EXPECT_TRUE(apart.equal(middle(in_place)));
    EXPECT_TRUE(added.narrow(1, 0, width).equal(before.narrow(1, 0, width))) << "a neighbour's columns changed";
    EXPECT_TRUE(added.narrow(1, 2 * width, width).equal(before.narrow(1, 2 * width, width)));
    const Tensor runs = at::empty({runs_of(kRows), width}, factors.options());
    const Tensor sums = at::empty({width}, factors.options());
    k().product_runs(middle(before).data_ptr(), stride, x.data_ptr(), factors.data_ptr<float>(), runs.data_ptr<float>(),
                     kRows, width);
    ops_->store_runs(runs.data_ptr<float>(), runs_of(kRows), width, {sums.data_ptr(), Dtype::f32, Store::overwrite});
    expect_close({middle(added), apart, sums}, {x, middle(before), factors}, [](const auto& in) {
      return std::vector<Tensor>{in[1] + in[0] * (in[2] - 1), in[1] * in[2], (in[1] * in[0]).sum(0) / in[2]};
    });
  }
}

TEST_P(CudaOpsTest, CrossEntropy) {
  for (const int64_t vocabulary : {49152, 32001}) {
    constexpr int64_t kRows = 100;
    const Tensor logits = random({kRows, vocabulary}) * 3;
    std::vector<int32_t> labels(kRows);
    for (int64_t i = 0; i < kRows; ++i) labels[static_cast<size_t>(i)] = static_cast<int32_t>(i * 331 % vocabulary);
    const Tensor at_labels = numbers(labels);
    const Tensor losses = at::empty({kRows}, at::device(at::kCUDA).dtype(at::kDouble));
    Tensor gradient = logits.clone();
    k().cross_entropy(gradient.data_ptr(), at_labels.data_ptr<int32_t>(), losses.data_ptr<double>(), 0.25f, true, kRows,
                      vocabulary);
    expect_close({losses, gradient}, {logits, at_labels}, [](const auto& in) {
      const Tensor label = in[1].to(at::kLong).unsqueeze(1), p = in[0].softmax(1);
      return std::vector<Tensor>{-in[0].log_softmax(1).gather(1, label).squeeze(1),
                                 0.25 * (p - at::zeros_like(p).scatter_(1, label, 1))};
    });
    OpReport& report = ops_->reports(1)[0];
    ops_->sum_losses(losses.data_ptr<double>(), kRows, Store::overwrite, report.loss_sum);
    ops_->sum_losses(losses.data_ptr<double>(), kRows, Store::accumulate, report.loss_sum);
    at::cuda::getCurrentCUDAStream().synchronize();
    EXPECT_NEAR(report.loss_sum, 2 * losses.sum().item<double>(), 1e-9);
  }
}

TEST_P(CudaOpsTest, DropoutDrawsWhatTheHostDraws) {
  const auto host = cpu_ops();
  for (const int64_t elements : {10000, 256, 77}) {
    const Tensor x = random({elements}), on_host = x.cpu();
    Tensor y = room({elements}), expected = at::empty_like(on_host);
    const DropoutKey key{seed_, 3, 11, 2};
    k().dropout(x.data_ptr(), y.data_ptr(), elements, 0.3f, key);
    host->kernels(dtype()).dropout(on_host.data_ptr(), expected.data_ptr(), elements, 0.3f, key);
    EXPECT_TRUE(y.cpu().equal(expected)) << elements << " elements, seed " << seed_;
  }
}

TEST_P(CudaOpsTest, RowsAreGatheredAndScattered) {
  for (const int64_t width : kWidths) {
    const Tensor table = random({50, width}), at_rows = numbers({7, 3, 49, 0, 12});
    Tensor y = room({5, width}), back = at::zeros({50, width}, table.options());
    k().gather_rows(table.data_ptr(), at_rows.data_ptr<int32_t>(), y.data_ptr(), 5, width);
    EXPECT_TRUE(y.equal(table.index_select(0, at_rows)));
    k().scatter_rows(y.data_ptr(), at_rows.data_ptr<int32_t>(), back.data_ptr(), 5, width);
    EXPECT_TRUE(back.index_select(0, at_rows).equal(y));
    EXPECT_EQ(back.to(at::kFloat).ne(0).any(1).sum().item<int64_t>(), 5);
  }
}

// A micro-batch of documents of these lengths, every third token unlabelled.
struct Numbers {
  std::vector<int32_t> ids, labels, positions, starts{0};
  explicit Numbers(const std::vector<int32_t>& lengths, int32_t vocabulary) {
    for (const int32_t length : lengths) {
      for (int32_t i = 0; i < length; ++i) {
        const auto at = static_cast<int32_t>(ids.size());
        ids.push_back(at * at % vocabulary);
        labels.push_back(at % 3 == 0 ? -100 : at % vocabulary);
        positions.push_back(i);
      }
      starts.push_back(static_cast<int32_t>(ids.size()));
    }
  }
  MicroBatch view(uint64_t index) const {
    return {static_cast<int64_t>(ids.size()), ids, labels, positions, starts, 1, 0, 1, index};
  }
};

TEST_P(CudaOpsTest, TheSecondMicroBatchHasNumbersOfItsOwn) {
  const Numbers first({100, 30}, 97), second({17, 600}, 53);
  const std::array<MicroBatch, 2> batches = {first.view(0), second.view(1)};
  ops_->place(batches);
  constexpr int64_t kWidth = 96;
  const Tensor dy = random({617, kWidth}), before = at::ones({53, kWidth}, at::device(at::kCUDA).dtype(at::kFloat));
  Tensor table = before.clone();
  ops_->scatter_add_rows(dtype(), dy.data_ptr(), batches[1], kWidth, 4, table.data_ptr(), Dtype::f32, nullptr);
  expect_close({table}, {before, dy, numbers(second.ids)}, [](const auto& in) {
    const Tensor kept = in[2].ne(4).unsqueeze(1).to(in[1].scalar_type());
    return std::vector<Tensor>{in[0].to(in[1].scalar_type()).index_add(0, in[2], in[1] * kept)};
  });
  const SupervisedTokens supervised = ops_->supervised(batches[1], nullptr, nullptr);
  std::vector<int32_t> rows(static_cast<size_t>(supervised.count));
  check_cuda(cudaMemcpy(rows.data(), supervised.rows, rows.size() * 4, cudaMemcpyDeviceToHost), "test");
  std::vector<int32_t> expected;
  for (size_t i = 0; i < second.labels.size(); ++i)
    if (second.labels[i] >= 0) expected.push_back(static_cast<int32_t>(i));
  EXPECT_EQ(rows, expected);
}

TEST_P(CudaOpsTest, WhatIsNotFiniteIsFoundAnywhere) {
  for (const int64_t count : {1024, 1021}) {
    for (const int64_t place : {int64_t{0}, int64_t{1}, count - 1}) {
      Tensor x = random({count});
      OpReport& report = ops_->reports(1)[0];
      ops_->check_finite(x.data_ptr(), count, dtype(), report);
      at::cuda::getCurrentCUDAStream().synchronize();
      EXPECT_EQ(report.not_finite, 0u);
      x[place] = std::numeric_limits<double>::infinity();
      ops_->check_finite(x.data_ptr(), count, dtype(), report);
      at::cuda::getCurrentCUDAStream().synchronize();
      EXPECT_NE(report.not_finite, 0u) << place << " of " << count;
    }
  }
}

TEST_P(CudaOpsTest, ProductsOfEveryKind) {
  struct Sizes {
    int64_t n, in, out;
  };
  for (const Sizes s : {Sizes{512, 576, 960}, Sizes{1000, 1536, 576}, Sizes{77, 93, 51}}) {
    const Tensor x = random({s.n, s.in}), w = random({s.out, s.in}), dy = random({s.n, s.out});
    Tensor y = room({s.n, s.out}), dx = random({s.n, s.in});
    const Tensor dx_before = dx.clone();
    Tensor dw = at::ones({s.out, s.in}, at::device(at::kCUDA).dtype(at::kFloat));
    ops_->multiply_by_transposed(dtype(), {x.data_ptr(), s.n, s.in}, {w.data_ptr(), s.out, s.in}, {y.data_ptr()});
    ops_->multiply(dtype(), {dy.data_ptr(), s.n, s.out}, {w.data_ptr(), s.out, s.in},
                   {dx.data_ptr(), 0, Into::accumulate});
    ops_->weight_gradient(dtype(), {dy.data_ptr(), s.n, s.out}, {x.data_ptr(), s.n, s.in},
                          {dw.data_ptr(), Dtype::f32, Store::accumulate}, nullptr);
    expect_close({y, dx, dw}, {x, w, dy, dx_before}, [](const auto& in) {
      return std::vector<Tensor>{in[0].mm(in[1].t()), in[3] + in[2].mm(in[1]), in[2].t().mm(in[0]) + 1};
    });
  }
}

Tensor attended(const Tensor& q, const Tensor& k, const Tensor& v, int64_t window, double scale) {
  const int64_t length = q.size(0);
  Tensor seen = at::ones({length, length}, q.options().dtype(at::kBool)).tril();
  if (window > 0) seen = seen.triu(1 - window);
  const int64_t shared = q.size(1) / k.size(1);
  const Tensor keys = k.repeat_interleave(shared, 1), values = v.repeat_interleave(shared, 1);
  const Tensor scores = at::einsum("qhd,khd->hqk", {q, keys}) * scale;
  return at::einsum("hqk,khd->qhd", {scores.masked_fill(~seen, -INFINITY).softmax(2), values});
}

TEST_P(CudaOpsTest, AttentionBothWays) {
  // 12 is no size that LibTorch's kernels take as it is.
  for (const auto& [size, window] : {std::pair{64, 0}, std::pair{64, 16}, std::pair{12, 0}}) {
    constexpr int64_t kHeads = 6, kKeyHeads = 2;
    const AttentionShape shape{kHeads, kKeyHeads, size, window, 0.125f};
    const Numbers batch({37, 200, 64}, 97);
    const std::array<MicroBatch, 1> batches = {batch.view(0)};
    ops_->place(batches);
    const int64_t n = batches[0].tokens;
    const Tensor qkv = random({n, kHeads + 2 * kKeyHeads, size}), dy = random({n, kHeads, size});
    Tensor output = room({n, kHeads, size}), gradient = at::full_like(qkv, 7);
    const Tensor sums = at::empty({kHeads, n}, at::device(at::kCUDA).dtype(at::kFloat));
    ops_->attention(dtype(), shape, batches[0], qkv.data_ptr(), output.data_ptr(), sums.data_ptr<float>(), {});
    ops_->attention_backward(dtype(), shape, batches[0], qkv.data_ptr(), output.data_ptr(), sums.data_ptr<float>(),
                             dy.data_ptr(), gradient.data_ptr(), {});
    expect_close({output, gradient}, {qkv, dy}, [&, window = window](const auto& in) {
      const c10::AutoGradMode with_gradients(true);
      const Tensor leaf = in[0].detach().clone().requires_grad_(true);
      std::vector<Tensor> outputs;
      for (size_t d = 0; d + 1 < batch.starts.size(); ++d) {
        const Tensor rows = leaf.narrow(0, batch.starts[d], batch.starts[d + 1] - batch.starts[d]);
        outputs.push_back(attended(rows.narrow(1, 0, kHeads), rows.narrow(1, kHeads, kKeyHeads),
                                   rows.narrow(1, kHeads + kKeyHeads, kKeyHeads), window, 0.125));
      }
      const Tensor y = at::cat(outputs, 0);
      y.backward(in[1]);
      return std::vector<Tensor>{y.detach(), leaf.grad()};
    });
    Tensor again = at::full_like(qkv, 7);
    ops_->attention_backward(dtype(), shape, batches[0], qkv.data_ptr(), output.data_ptr(), sums.data_ptr<float>(),
                             dy.data_ptr(), again.data_ptr(), {});
    EXPECT_TRUE(again.equal(gradient)) << "the backward adds in another order each time";
  }
}

// More short documents than one backward call has room for.
TEST_P(CudaOpsTest, ManyShortDocumentsGoBackwardInSeveralCalls) {
  constexpr int64_t kHeads = 4, kKeyHeads = 2, kSize = 64, kLongest = 5, kDocuments = 700;
  ops_ = make_cuda_ops({.tokens_max = kTokens, .micro_batches_max = 1, .positions_max = kLongest});
  const AttentionShape shape{kHeads, kKeyHeads, kSize, 0, 0.125f};
  std::vector<int32_t> lengths;
  for (int32_t d = 0; d < kDocuments; ++d) lengths.push_back(1 + d * 7 % 3);
  const Numbers batch(lengths, 97);
  const std::array<MicroBatch, 1> batches = {batch.view(0)};
  ops_->place(batches);
  const int64_t n = batches[0].tokens;
  const Tensor qkv = random({n, kHeads + 2 * kKeyHeads, kSize}), dy = random({n, kHeads, kSize});
  Tensor output = room({n, kHeads, kSize}), gradient = at::full_like(qkv, 7);
  const Tensor sums = at::empty({kHeads, n}, at::device(at::kCUDA).dtype(at::kFloat));
  ops_->attention(dtype(), shape, batches[0], qkv.data_ptr(), output.data_ptr(), sums.data_ptr<float>(), {});
  ops_->attention_backward(dtype(), shape, batches[0], qkv.data_ptr(), output.data_ptr(), sums.data_ptr<float>(),
                           dy.data_ptr(), gradient.data_ptr(), {});
  const std::vector<int32_t> starts = batch.starts;
  expect_close({output, gradient}, {qkv, dy}, [&](const auto& in) {
    // All documents at once, each masked from the others.
    const c10::AutoGradMode with_gradients(true);
    const Tensor leaf = in[0].detach().clone().requires_grad_(true);
    std::vector<int32_t> owner;
    for (size_t d = 0; d + 1 < starts.size(); ++d)
      owner.insert(owner.end(), static_cast<size_t>(starts[d + 1] - starts[d]), static_cast<int32_t>(d));
    const Tensor of = numbers(owner), alike = of.unsqueeze(1).eq(of.unsqueeze(0)).tril();
    const auto shared = [&](int64_t first) {
      return leaf.narrow(1, first, kKeyHeads).repeat_interleave(kHeads / kKeyHeads, 1);
    };
    const Tensor scores = at::einsum("qhd,khd->hqk", {leaf.narrow(1, 0, kHeads), shared(kHeads)}) * 0.125;
    const Tensor y =
        at::einsum("hqk,khd->qhd", {scores.masked_fill(~alike, -INFINITY).softmax(2), shared(kHeads + kKeyHeads)});
    y.backward(in[1]);
    return std::vector<Tensor>{y.detach(), leaf.grad()};
  });
}

// The first backward of a shape takes what any later one may, and so what is measured: not twice.
TEST_P(CudaOpsTest, TheFirstBackwardTakesItsSumsOnce) {
  if (dtype() == Dtype::f32) GTEST_SKIP() << "another kernel";
  namespace allocator = c10::cuda::CUDACachingAllocator;
  constexpr int64_t kLength = 8192, kSize = 128;
  ops_ = make_cuda_ops({.tokens_max = kLength, .micro_batches_max = 1, .positions_max = kLength});
  const AttentionShape shape{1, 1, kSize, 0, 0.125f};
  const Numbers batch({kLength}, 97);
  const std::array<MicroBatch, 1> batches = {batch.view(0)};
  ops_->place(batches);
  const Tensor qkv = random({kLength, 3, kSize}), dy = random({kLength, 1, kSize});
  Tensor output = room({kLength, 1, kSize}), gradient = at::full_like(qkv, 7);
  const Tensor sums = at::empty({1, kLength}, at::device(at::kCUDA).dtype(at::kFloat));
  const auto reserved = [] { return allocator::getDeviceStats(0).reserved_bytes[0]; };  // of all pools
  allocator::emptyCache();
  allocator::resetPeakStats(0);
  const int64_t before = reserved().current;
  ops_->attention(dtype(), shape, batches[0], qkv.data_ptr(), output.data_ptr(), sums.data_ptr<float>(), {});
  ops_->attention_backward(dtype(), shape, batches[0], qkv.data_ptr(), output.data_ptr(), sums.data_ptr<float>(),
                           dy.data_ptr(), gradient.data_ptr(), {});
  const int64_t copies = at::cuda::getCurrentDeviceProperties()->multiProcessorCount;  // one document, one head
  const int64_t sum_bytes = copies * (kLength + 128) * kSize * 4, beside = 64 << 20;
  EXPECT_LT(reserved().peak - before, sum_bytes + beside);
}

// Codes and scales are any bytes; the host's kernels are the ones that agree with bitsandbytes.
TEST_P(CudaOpsTest, LowBitsExpandToTheBitsOfTheHost) {
  const auto on_gpu = [](const Tensor& host) { return host.to(at::kCUDA); };
  for (const auto& [rows, columns] : {std::pair{96, 256}, std::pair{300, 192}, std::pair{44, 76}, std::pair{33, 37}})
    for (const LowBitFormat format : {LowBitFormat{LowBit::nf4, true}, LowBitFormat{LowBit::nf4, false},
                                      LowBitFormat{LowBit::fp4, true}, LowBitFormat{LowBit::int8, false}}) {
      const Tensor codes = at::randint(256, {rows * columns}, at::kByte);
      const Tensor scales =
          format.double_quant ? at::randint(256, {rows * columns}, at::kByte) : at::rand({rows * columns});
      const Tensor nested = at::rand({rows * columns}), offset = at::rand({1});
      const std::array<Tensor, 4> host = {codes, scales, nested, offset};
      const std::array<Tensor, 4> device = {on_gpu(codes), on_gpu(scales), on_gpu(nested), on_gpu(offset)};
      const auto stored = [&](const std::array<Tensor, 4>& at) {
        return StoredMatrix{format,
                            rows,
                            columns,
                            static_cast<const std::byte*>(at[0].data_ptr()),
                            static_cast<const std::byte*>(at[1].data_ptr()),
                            at[2].data_ptr<float>(),
                            at[3].data_ptr<float>()};
      };
      for (const MatrixRange range : {MatrixRange{0, rows, 0, columns}, MatrixRange{7, 20, 0, columns},
                                      MatrixRange{0, rows, columns / 128 * 64, columns - columns / 128 * 64}}) {
        const Tensor theirs = at::zeros({range.rows, range.columns}, type()), ours = room({range.rows, range.columns});
        low_bit_kernels().expand(dtype(), stored(host), range, theirs.data_ptr(), range.columns);
        ops_->expand(dtype(), stored(device), range, ours.data_ptr(), range.columns);
        EXPECT_TRUE(ours.cpu().equal(theirs)) << name_of(format.kind) << ' ' << rows << 'x' << columns
                                              << ", columns from " << range.column << ", seed " << seed_;
      }
      const Tensor plain = random({rows, columns}), part = room({20, columns / 2});
      ops_->copy_range(dtype(), {plain.data_ptr(), rows, columns}, {7, 20, columns / 4, columns / 2}, part.data_ptr());
      EXPECT_TRUE(part.equal(plain.narrow(0, 7, 20).narrow(1, columns / 4, columns / 2)));
    }
}

TEST(CudaSelfCheck, PassesOnAGpuThatWorks) {
  if (!at::hasCUDA() || at::cuda::device_count() == 0) GTEST_SKIP() << "no GPU here";
  use_stream(at::cuda::getStreamFromPool(), 0);
  EXPECT_NO_THROW(check_arithmetic(0));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaOpsTest, testing::Values(Dtype::f32, Dtype::bf16, Dtype::f16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace
}  // namespace sluice::models::cuda
