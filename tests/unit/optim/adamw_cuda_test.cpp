// The GPU's AdamW and norms against the host's, bit by bit. Skips where there is none.
#include "optim/cuda/adamw_cuda.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "tests/unit/optim/random_states.h"

namespace sluice::optim {
namespace {

constexpr AdamWSettings kSettings{.learning_rate = 1e-3, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.7f};
const std::vector<size_t> kCounts = {1, 3, 4, 7, 64, 1003, 65'536, 65'536 + 5, 4 * 65'536 + 4};

// No infinite gradients, which training refuses: what is no number has other bits on other processors.
States finite_states(size_t count, uint64_t seed) {
  States s = random_states(count, seed);
  for (size_t i = 0; i < count; ++i) {
    if (!std::isfinite(s.g[i])) s.g[i] = 0.5f;
    s.g_bf16[i] = float_to_bf16(s.g[i]);
  }
  return s;
}

// A vector's copy in the GPU's memory.
template <class T>
class OnGpu {
 public:
  explicit OnGpu(const std::vector<T>& values)
      : memory_(CudaMemoryKind::device, Bytes{static_cast<int64_t>(values.size() * sizeof(T))}, "a test"),
        count_(values.size()) {
    check_cuda(cudaMemcpy(data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copying");
  }
  T* data() const { return memory_.as<T>(); }
  std::vector<T> back() const {
    std::vector<T> values(count_);
    check_cuda(cudaMemcpy(values.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost), "copying back");
    return values;
  }

 private:
  CudaMemory memory_;
  size_t count_;
};

class AdamWCudaTest : public testing::Test {
 protected:
  void SetUp() override {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) GTEST_SKIP() << "no GPU";
  }

  // The first `decayed` elements decay, as norms and biases that follow do not.
  static void update_on_host(States& s, bool split, bool bf16, size_t decayed, AdamWSettings settings) {
    const auto update = [&](size_t begin, size_t end) {
      const auto cut = [&](auto& x) { return std::span(x).subspan(begin, end - begin); };
      const GradientView gradients = bf16 ? GradientView{{}, cut(s.g_bf16)} : GradientView{cut(s.g), {}};
      split ? adamw_split(best_isa(), settings, cut(s.hi), cut(s.lo), gradients, cut(s.m), cut(s.v))
            : adamw_f32(best_isa(), settings, cut(s.p), gradients, cut(s.m), cut(s.v));
    };
    update(0, decayed);
    settings.weight_decay = 0;
    update(decayed, s.p.size());
  }
  static void update_on_gpu(States& s, bool split, bool bf16, size_t decayed, const AdamWSettings& settings) {
    const OnGpu<float> p(s.p), g(s.g), m(s.m), v(s.v);
    const OnGpu<uint16_t> hi(s.hi), g_bf16(s.g_bf16);
    const OnGpu<int16_t> lo(s.lo);
    cuda::adamw(
        settings,
        {split ? static_cast<void*>(hi.data()) : p.data(), bf16 ? static_cast<const void*>(g_bf16.data()) : g.data(),
         m.data(), v.data(), split ? lo.data() : nullptr, static_cast<int64_t>(s.p.size()),
         static_cast<int64_t>(decayed), bf16 ? Dtype::bf16 : Dtype::f32},
        nullptr);
    s.p = p.back(), s.m = m.back(), s.v = v.back(), s.hi = hi.back(), s.lo = lo.back();
  }
};

TEST_F(AdamWCudaTest, GivesTheHostsBits) {
  for (const size_t count : kCounts)
    for (const double beta1 : {0.9, 0.3})
      for (const bool split : {false, true})
        for (const bool bf16 : {false, true}) {
          AdamWSettings settings = kSettings;
          settings.beta1 = beta1;
          States host = finite_states(count, count), gpu = host;
          update_on_host(host, split, bf16, count / 3, settings);
          update_on_gpu(gpu, split, bf16, count / 3, settings);
          EXPECT_TRUE(same_bits(host, gpu))
              << count << " elements, beta1 " << beta1 << ", split " << split << ", bf16 gradients " << bf16;
        }
}

TEST_F(AdamWCudaTest, NormsHaveTheHostsBits) {
  for (const size_t count : kCounts) {
    const States s = finite_states(count, count + 1);
    for (const bool bf16 : {false, true}) {
      const std::vector<double> none((count + kNormRunElements - 1) / kNormRunElements);
      const OnGpu<double> runs(none);
      const OnGpu<float> g(s.g);
      const OnGpu<uint16_t> g_bf16(s.g_bf16);
      cuda::squared_norm(bf16 ? static_cast<const void*>(g_bf16.data()) : g.data(), bf16 ? Dtype::bf16 : Dtype::f32,
                         static_cast<int64_t>(count), runs.data(), nullptr);
      double sum = 0;
      for (const double run : runs.back()) sum += run;
      const double host = squared_norm(best_isa(), bf16 ? GradientView{{}, s.g_bf16} : GradientView{s.g, {}});
      EXPECT_EQ(std::bit_cast<uint64_t>(sum), std::bit_cast<uint64_t>(host)) << count << ", bf16 " << bf16;
    }
  }
}

}  // namespace
}  // namespace sluice::optim
