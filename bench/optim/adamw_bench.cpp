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
  int64_t gradient_bytes;
  std::vector<int64_t> written_bytes;  // parameter's streams, then m and v

  // Of one parameter: every written stream is read too.
  int64_t bytes_moved() const {
    int64_t bytes = gradient_bytes;
    for (const int64_t written : written_bytes) bytes += 2 * written;
    return bytes;
  }
};

const Format kFormats[] = {
    {"f32_gradient_f32", 4, {4, 4, 4}},
    {"f32_gradient_bf16", 2, {4, 4, 4}},
    {"split_gradient_f32", 4, {2, 2, 4, 4}},
    {"split_gradient_bf16", 2, {2, 2, 4, 4}},
};

void update(const UpdateMemory& memory, int64_t begin, int64_t end) {
  const auto first = static_cast<size_t>(begin), count = static_cast<size_t>(end - begin);
  const auto all = static_cast<size_t>(memory.elements);
  // The streams lie one after the other: (p, or hi and lo) 4 bytes an element, m, v.
  const std::span p(reinterpret_cast<float*>(memory.written), all);
  const std::span m(p.data() + all, all), v(m.data() + all, all);
  GradientView gradients;
  if (memory.gradient_bytes == 4) {
    gradients.f32 = std::span(reinterpret_cast<const float*>(memory.gradients), all).subspan(first, count);
  } else {
    gradients.bf16 = std::span(reinterpret_cast<const uint16_t*>(memory.gradients), all).subspan(first, count);
  }
  const optim::Isa isa = optim::best_isa();
  if (memory.written_bytes.size() == 3) {
    adamw_f32(isa, kSettings, p.subspan(first, count), gradients, m.subspan(first, count), v.subspan(first, count));
    return;
  }
  const std::span hi(reinterpret_cast<uint16_t*>(memory.written), all);
  const std::span lo(reinterpret_cast<int16_t*>(hi.data() + all), all);
  adamw_split(isa, kSettings, hi.subspan(first, count), lo.subspan(first, count), gradients, m.subspan(first, count),
              v.subspan(first, count));
}

void update_against_roof(benchmark::State& state, const Format& format) {
  const int64_t count = elements();
  const Memory written(count * 12), gradients(count * format.gradient_bytes);
  const UpdateMemory memory{written.at(), gradients.at(), count, format.gradient_bytes, format.written_bytes};
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
  constexpr size_t kCount = 16'384;
  std::vector<float> p(kCount, 0.01f), g(kCount, 0.01f), m(kCount, 0.01f), v(kCount, 0.01f);
  std::vector<uint16_t> hi(kCount, float_to_bf16(0.01f)), g_bf16 = hi;
  std::vector<int16_t> lo(kCount);
  GradientView gradients;
  format.gradient_bytes == 4 ? void(gradients.f32 = g) : void(gradients.bf16 = g_bf16);
  for (auto _ : state) {
    if (format.written_bytes.size() == 3) {
      adamw_f32(isa, kSettings, p, gradients, m, v);
    } else {
      adamw_split(isa, kSettings, hi, lo, gradients, m, v);
    }
  }
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
