// The GPU's AdamW and norms against the host's, bit by bit. Skips where there is none.
#include "optim/cuda/adamw_cuda.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "runtime/core/half.h"
#include "tests/unit/optim/random_states.h"

namespace sluice::optim {
namespace {

constexpr AdamWSettings kSettings{.learning_rate = 1e-3, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.7f};
const std::vector<size_t> kCounts = {1, 3, 4, 7, 64, 1003, 65'536, 65'536 + 5, 4 * 65'536 + 4};

// No infinite gradients, which training refuses: what is no number has other bits on other processors.
States finite_states(size_t count, uint64_t seed) {
  States s = random_states(count, seed);
  for (size_t i = 0; i < count; ++i) {
    if (!(std::fabs(s.g[i]) <= 6e4f)) s.g[i] = 0.5f;  // what fp16 holds
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

  // All that an update of those types touches, by AdamWArrays' names.
  struct Arrays {
    std::vector<std::byte> weights, master, gradients, m, v, m_scales, v_scales;
    bool operator==(const Arrays&) const = default;
  };
  template <class Value>
  static std::vector<std::byte> bytes_of(const std::vector<Value>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    return {bytes.begin(), bytes.end()};
  }
  static std::vector<std::byte> stored(const std::vector<float>& values, Dtype dtype) {
    if (dtype == Dtype::f32) return bytes_of(values);
    std::vector<uint16_t> bits;
    for (const float value : values) bits.push_back(dtype == Dtype::bf16 ? float_to_bf16(value) : float_to_f16(value));
    return bytes_of(bits);
  }
  static Arrays arrays_of(const States& s, Dtype weights, Dtype gradients, MomentFormat moments) {
    Arrays arrays;
    arrays.weights = weights == Dtype::bf16 ? bytes_of(s.hi) : stored(s.p, weights);
    if (weights == Dtype::bf16) arrays.master = bytes_of(s.lo);
    if (weights == Dtype::f16) arrays.master = bytes_of(s.p);
    arrays.gradients = stored(s.g, gradients);
    if (moments != MomentFormat::int8) {
      const Dtype dtype = moments == MomentFormat::f32 ? Dtype::f32 : Dtype::bf16;
      arrays.m = stored(s.m, dtype);
      arrays.v = stored(s.v, dtype);
      return arrays;
    }
    const size_t blocks = (s.p.size() + kStateBlock - 1) / kStateBlock;
    for (size_t i = 0; i < s.p.size(); ++i) {
      arrays.m.push_back(static_cast<std::byte>(s.hi[i]));
      arrays.v.push_back(static_cast<std::byte>(s.lo[i]));
    }
    std::vector<float> scales(blocks, 0.02f);
    scales[0] = 0;
    if (blocks > 1) scales[1] = 1e-39f;  // whose inverse overflows
    arrays.m_scales = arrays.v_scales = bytes_of(scales);
    return arrays;
  }
  template <class Place>
  static AdamWArrays pointers(Arrays& arrays, UpdateRule rule, Dtype weights, Dtype gradients, MomentFormat moments,
                              const Place& place) {
    return {.count = static_cast<int64_t>(arrays.weights.size()) / size_of(weights),
            .rule = rule,
            .weight_dtype = weights,
            .weights = place(arrays.weights),
            .master = place(arrays.master),
            .gradient_dtype = gradients,
            .gradients = place(arrays.gradients),
            .moments = moments,
            .m = place(arrays.m),
            .v = place(arrays.v),
            .m_scales = static_cast<float*>(place(arrays.m_scales)),
            .v_scales = static_cast<float*>(place(arrays.v_scales)),
            .group = 3,
            .first = 4096};
  }
};

constexpr std::pair<UpdateRule, MomentFormat> kKinds[] = {
    {UpdateRule::adamw, MomentFormat::f32},  {UpdateRule::adamw, MomentFormat::bf16},
    {UpdateRule::adamw, MomentFormat::int8}, {UpdateRule::lion, MomentFormat::f32},
    {UpdateRule::lion, MomentFormat::bf16},  {UpdateRule::lion, MomentFormat::int8}};

TEST_F(AdamWCudaTest, GivesTheHostsBits) {
  constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::bf16, Dtype::f16};
  cuda::load_dynamic_tables();
  for (const size_t count : kCounts)
    for (const double beta1 : {0.9, 0.3})
      for (const Dtype weights : kDtypes)
        for (const Dtype gradients : kDtypes)
          for (const auto& [rule, moments] : kKinds) {
            AdamWSettings settings = kSettings;
            settings.beta1 = beta1;
            settings.seed = count;
            Arrays host = arrays_of(finite_states(count, count), weights, gradients, moments), gpu = host;
            const auto on_host = [](std::vector<std::byte>& bytes) -> void* {
              return bytes.empty() ? nullptr : bytes.data();
            };
            update(best_isa(), settings, pointers(host, rule, weights, gradients, moments, on_host));
            std::vector<std::pair<std::vector<std::byte>*, OnGpu<std::byte>>> there;
            const auto on_gpu = [&](std::vector<std::byte>& bytes) -> void* {
              if (bytes.empty()) return nullptr;
              there.emplace_back(&bytes, OnGpu<std::byte>(bytes));
              return there.back().second.data();
            };
            there.reserve(7);
            cuda::update(settings, pointers(gpu, rule, weights, gradients, moments, on_gpu), nullptr);
            for (auto& [bytes, memory] : there) *bytes = memory.back();
            EXPECT_TRUE(host == gpu) << count << " elements, beta1 " << beta1 << ", weights " << name_of(weights)
                                     << ", gradients " << name_of(gradients) << ", moments " << name_of(moments) << ", "
                                     << name_of(rule);
          }
}

TEST_F(AdamWCudaTest, NormsHaveTheHostsBits) {
  for (const size_t count : kCounts) {
    const States s = finite_states(count, count + 1);
    std::vector<uint16_t> f16;
    for (const float x : s.g) f16.push_back(float_to_f16(x));
    const std::pair<Dtype, GradientView> kinds[] = {
        {Dtype::f32, {s.g, {}}}, {Dtype::bf16, {{}, s.g_bf16}}, {Dtype::f16, {{}, {}, f16}}};
    for (const auto& [dtype, view] : kinds) {
      const std::vector<double> none((count + kNormRunElements - 1) / kNormRunElements);
      const OnGpu<double> runs(none);
      const OnGpu<std::byte> g(stored(s.g, dtype));
      cuda::squared_norm(g.data(), dtype, static_cast<int64_t>(count), runs.data(), nullptr);
      double sum = 0;
      for (const double run : runs.back()) sum += run;
      const double host = squared_norm(best_isa(), view);
      EXPECT_EQ(std::bit_cast<uint64_t>(sum), std::bit_cast<uint64_t>(host)) << count << ", " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace sluice::optim
