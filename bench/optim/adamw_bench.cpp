// adamw_bench: AdamW's speed against the DRAM speed of the same bytes, both through WorkerPool in the same run.
//
//   build/release/adamw_bench                            all
//   build/release/adamw_bench --benchmark_filter=update  the formats only
//
// Each iteration times the update and each roof kernel once, in turn, so that all see the same neighbours on a shared
// machine. Reported: medians over the iterations; percent_of_roof is the median of the pairs' ratios, the roof being
// the roof kernel with the best median. SLUICE_BENCH_THREADS and SLUICE_BENCH_ELEMENTS change the defaults.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "bench/optim/dram_roof.h"
#include "optim/adamw.h"
#include "optim/worker_pool.h"
#include "runtime/core/check.h"

namespace sluice::bench {
namespace {

using optim::GradientView;

constexpr int64_t kGrainElements = 1 << 16;
constexpr optim::AdamWSettings kSettings{.learning_rate = 1e-5, .weight_decay = 0.01, .step = 10};

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoll(value);
}

// Enough that the smallest format's memory is many times the last-level cache.
int64_t elements() {
  return from_environment("SLUICE_BENCH_ELEMENTS", 32 << 20) / kRoofBlockElements * kRoofBlockElements;
}

int threads() { return static_cast<int>(from_environment("SLUICE_BENCH_THREADS", 2)); }

// Page-aligned memory, touched so that no page fault is timed. Holds small numbers whatever type it is read as.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    void* at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SLUICE_CHECK(at != MAP_FAILED, "not enough memory: lower SLUICE_BENCH_ELEMENTS");
    at_ = static_cast<std::byte*>(at);
    std::fill_n(reinterpret_cast<uint16_t*>(at_), bytes_ / 2, float_to_bf16(0.01f));
  }
  ~Memory() { munmap(at_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* at() const { return at_; }

 private:
  size_t bytes_;
  std::byte* at_;
};

// Seconds that the pool takes over one job.
template <class Body>
double seconds(optim::WorkerPool& pool, int64_t count, const Body& body) {
  // Shared: the pool's thread may still be inside set_value when wait returns.
  const auto done = std::make_shared<std::promise<void>>();
  const std::future<void> finished = done->get_future();
  const auto start = std::chrono::steady_clock::now();
  pool.submit(count, kGrainElements, body, [done] { done->set_value(); });
  finished.wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Format {
  std::string name;
  Dtype weights = Dtype::f32, gradients = Dtype::f32;
  MomentFormat moments = MomentFormat::f32;
  std::vector<int64_t> written_bytes;  // of one parameter: weights, master, m, v
  UpdateRule rule = UpdateRule::adamw;

  int64_t gradient_bytes() const { return size_of(gradients); }
  // Of one parameter: every written stream is read too. Scales of int8 moments, 1/16 of a byte, are not counted.
  int64_t bytes_moved() const {
    int64_t bytes = gradient_bytes();
    for (const int64_t written : written_bytes) bytes += 2 * written;
    return bytes;
  }
};

const Format kFormats[] = {
    {"f32_gradient_f32", Dtype::f32, Dtype::f32, MomentFormat::f32, {4, 4, 4}},
    {"f32_gradient_bf16", Dtype::f32, Dtype::bf16, MomentFormat::f32, {4, 4, 4}},
    {"split_gradient_f32", Dtype::bf16, Dtype::f32, MomentFormat::f32, {2, 2, 4, 4}},
    {"split_gradient_bf16", Dtype::bf16, Dtype::bf16, MomentFormat::f32, {2, 2, 4, 4}},
    {"f16_gradient_f16", Dtype::f16, Dtype::f16, MomentFormat::f32, {2, 4, 4, 4}},
    {"split_gradient_f32_moments_bf16", Dtype::bf16, Dtype::f32, MomentFormat::bf16, {2, 2, 2, 2}},
    {"split_gradient_bf16_moments_bf16", Dtype::bf16, Dtype::bf16, MomentFormat::bf16, {2, 2, 2, 2}},
    {"split_gradient_f32_moments_8bit", Dtype::bf16, Dtype::f32, MomentFormat::int8, {2, 2, 1, 1}},
    {"split_gradient_bf16_moments_8bit", Dtype::bf16, Dtype::bf16, MomentFormat::int8, {2, 2, 1, 1}},
    {"split_gradient_bf16_lion", Dtype::bf16, Dtype::bf16, MomentFormat::f32, {2, 2, 4}, UpdateRule::lion},
    {"split_gradient_bf16_lion_8bit", Dtype::bf16, Dtype::bf16, MomentFormat::int8, {2, 2, 1}, UpdateRule::lion},
};

// Streams that lie one after the other in `written`, and scales beside them.
struct Places {
  std::byte* written;
  const std::byte* gradients;
  std::vector<float> scales;  // of m, then of v
  int64_t elements;

  Places(std::byte* written_at, const std::byte* gradients_at, int64_t count)
      : written(written_at),
        gradients(gradients_at),
        scales(static_cast<size_t>(2 * (count / kStateBlock + 1)), 0.01f),
        elements(count) {}
  optim::AdamWArrays arrays(const Format& format, int64_t begin, int64_t end) {
    std::vector<std::byte*> streams;
    std::byte* stream = written;
    for (const int64_t bytes : format.written_bytes) {
      streams.push_back(stream + begin * bytes);
      stream += elements * bytes;
    }
    const bool has_master = format.weights != Dtype::f32, has_v = format.rule == UpdateRule::adamw;
    const int64_t blocks = elements / kStateBlock + 1;
    return {.count = end - begin,
            .rule = format.rule,
            .weight_dtype = format.weights,
            .weights = streams[0],
            .master = has_master ? streams[1] : nullptr,
            .gradient_dtype = format.gradients,
            .gradients = gradients + begin * format.gradient_bytes(),
            .moments = format.moments,
            .m = streams[has_master ? 2 : 1],
            .v = has_v ? streams.back() : nullptr,
            .m_scales = scales.data() + begin / kStateBlock,
            .v_scales = scales.data() + blocks + begin / kStateBlock,
            .first = begin};
  }
};

void update_against_roof(benchmark::State& state, const Format& format) {
  const int64_t count = elements();
  int64_t written_bytes = 0;
  for (const int64_t bytes : format.written_bytes) written_bytes += bytes;
  const Memory written(count * written_bytes), gradients(count * format.gradient_bytes());
  const UpdateMemory memory{written.at(), gradients.at(), count, format.gradient_bytes(), format.written_bytes};
  Places places(written.at(), gradients.at(), count);
  const auto update = [&](const UpdateMemory&, int64_t begin, int64_t end) {
    optim::update(optim::best_isa(), kSettings, places.arrays(format, begin, end));
  };
  optim::WorkerPool pool(threads());
  const auto time = [&](const auto& kernel) {
    return seconds(pool, count, [&](int64_t begin, int64_t end) { kernel(memory, begin, end); });
  };
  const std::span<const RoofKernel> roofs = roof_kernels();
  std::vector<double> update_seconds;
  std::vector<std::vector<double>> roof_seconds(roofs.size());
  for (auto _ : state) {
    update_seconds.push_back(time(update));
    for (size_t i = 0; i < roofs.size(); ++i) roof_seconds[i].push_back(time(roofs[i].run));
    state.SetIterationTime(update_seconds.back());
  }
  size_t best = 0;
  for (size_t i = 1; i < roofs.size(); ++i) {
    if (median(roof_seconds[i]) < median(roof_seconds[best])) best = i;
  }
  const double bytes = static_cast<double>(count * format.bytes_moved());
  state.counters["Gparam/s"] = static_cast<double>(count) / median(update_seconds) / 1e9;
  state.counters["GB/s"] = bytes / median(update_seconds) / 1e9;
  state.counters["roof_GB/s"] = bytes / median(roof_seconds[best]) / 1e9;
  std::vector<double> ratios;
  for (size_t i = 0; i < update_seconds.size(); ++i) ratios.push_back(roof_seconds[best][i] / update_seconds[i]);
  state.counters["percent_of_roof"] = 100 * median(ratios);
  state.SetLabel("roof: " + std::string(roofs[best].name));
}

void stream_triad(benchmark::State& state, void (*kernel)(float*, const float*, const float*, int64_t, int64_t)) {
  const int64_t count = elements();
  const Memory memory(count * 12);
  auto* a = reinterpret_cast<float*>(memory.at());
  optim::WorkerPool pool(threads());
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(
        seconds(pool, count, [&](int64_t begin, int64_t end) { kernel(a, a + count, a + 2 * count, begin, end); }));
    state.SetIterationTime(times.back());
  }
  state.counters["GB/s"] = static_cast<double>(12 * count) / median(times) / 1e9;
}

void squared_norm_against_memory(benchmark::State& state, int64_t gradient_bytes) {
  const int64_t count = elements();
  const Memory memory(count * gradient_bytes);
  optim::WorkerPool pool(threads());
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(seconds(pool, count, [&](int64_t begin, int64_t end) {
      GradientView run;
      const auto first = static_cast<size_t>(begin), size = static_cast<size_t>(end - begin);
      if (gradient_bytes == 4) {
        run.f32 = {reinterpret_cast<const float*>(memory.at()) + first, size};
      } else {
        run.bf16 = {reinterpret_cast<const uint16_t*>(memory.at()) + first, size};
      }
      benchmark::DoNotOptimize(squared_norm(optim::best_isa(), run));
    }));
    state.SetIterationTime(times.back());
  }
  state.counters["GB/s"] = static_cast<double>(gradient_bytes * count) / median(times) / 1e9;
}

// One thread, everything in the second-level cache: what the arithmetic alone allows.
void update_in_cache(benchmark::State& state, const Format& format, optim::Isa isa) {
  if (isa > optim::best_isa()) return state.SkipWithError("this processor does not have it");
  constexpr int64_t kCount = 16'384;
  const Memory written(kCount * 14), gradients(kCount * 4);
  Places places(written.at(), gradients.at(), kCount);
  for (auto _ : state) optim::update(isa, kSettings, places.arrays(format, 0, kCount));
  state.counters["Gparam/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * kCount) / 1e9, benchmark::Counter::kIsRate);
}

constexpr int kIterations = 21;

bool register_all() {
  const auto memory_bound = [](benchmark::internal::Benchmark* b) {
    b->UseManualTime()->Iterations(kIterations)->Unit(benchmark::kMillisecond);
  };
  memory_bound(benchmark::RegisterBenchmark("triad", stream_triad, triad));
  memory_bound(benchmark::RegisterBenchmark("triad_streaming_stores", stream_triad, triad_streaming));
  memory_bound(benchmark::RegisterBenchmark("squared_norm_f32", squared_norm_against_memory, 4));
  memory_bound(benchmark::RegisterBenchmark("squared_norm_bf16", squared_norm_against_memory, 2));
  for (const Format& format : kFormats) {
    memory_bound(benchmark::RegisterBenchmark(("update/" + format.name).c_str(), update_against_roof, format));
  }
  for (const Format& format : kFormats) {
    for (const optim::Isa isa : {optim::Isa::scalar, optim::Isa::avx2, optim::Isa::avx512}) {
      const std::string name = "in_cache/" + format.name + "/" + std::string(name_of(isa));
      benchmark::RegisterBenchmark(name.c_str(), update_in_cache, format, isa)->MinTime(0.1);
    }
  }
  return true;
}

const bool registered = register_all();

}  // namespace
}  // namespace sluice::bench
