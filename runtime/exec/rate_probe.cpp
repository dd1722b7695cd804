#include "runtime/exec/rate_probe.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "models/gemm_rate.h"
#include "optim/adamw.h"
#include "optim/worker_pool.h"
#include "runtime/core/result.h"

namespace sluice::exec {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

enum class Direction { read, write, both };

// Moves every extent once (both: half of them each way) and returns bytes per second.
BytesPerSecond disk_rate(swap::SwapEngine& swap, const std::vector<swap::ExtentId>& extents,
                         std::span<std::byte> memory, int64_t extent_bytes, Direction direction) {
  const auto begin = Clock::now();
  size_t left = extents.size();
  for (size_t i = 0; i < extents.size(); ++i) {
    const auto place = memory.subspan(i * static_cast<size_t>(extent_bytes), static_cast<size_t>(extent_bytes));
    if (direction == Direction::write || (direction == Direction::both && i % 2 == 0)) {
      swap.write(extents[i], place, i);
    } else {
      swap.read(extents[i], place, i);
    }
  }
  while (left > 0)
    for (const swap::Completion& completion : swap.wait(std::chrono::seconds(1))) {
      if (!completion.result.ok()) throw RunError(completion.result.error());
      --left;
    }
  return {static_cast<double>(extent_bytes) * static_cast<double>(extents.size()) / seconds_since(begin)};
}

void probe_disk(swap::SwapEngine& swap, std::span<std::byte> memory, plan::MachineProfile& profile) {
  constexpr int64_t kExtentBytes = MiB(4).count;
  constexpr int kRounds = 4;
  std::vector<swap::ExtentId> extents;
  for (int64_t at = 0; at < kRateProbeBytes.count; at += kExtentBytes)
    extents.push_back(swap.create_extent(Bytes{kExtentBytes}, "rate probe"));
  const auto best = [&](Direction direction) {
    BytesPerSecond rate{1};
    for (int round = 0; round < kRounds; ++round)
      rate = std::max(rate, disk_rate(swap, extents, memory, kExtentBytes, direction));
    return rate;
  };
  profile.disk_write = best(Direction::write);
  profile.disk_read = best(Direction::read);
  profile.disk_both = best(Direction::both);
}

// DRAM bytes per second of the update itself, on states larger than the caches.
BytesPerSecond optimizer_rate(std::span<std::byte> memory, int threads) {
  const int64_t elements = round_down(kRateProbeBytes.count / 16, 4096);
  auto* floats = reinterpret_cast<float*>(memory.data());
  std::fill(floats, floats + 4 * elements, 1e-3f);
  const auto part = [&](int64_t which, int64_t first, int64_t last) {
    return std::span(floats + which * elements + first, static_cast<size_t>(last - first));
  };
  optim::WorkerPool pool(threads);
  BytesPerSecond best;
  for (int round = 0; round < 4; ++round) {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    const auto begin = Clock::now();
    pool.submit(
        elements, 1 << 16,
        [&](int64_t first, int64_t last) {
          optim::adamw_f32(optim::best_isa(), {.learning_rate = 1e-3}, part(0, first, last), {part(1, first, last), {}},
                           part(2, first, last), part(3, first, last));
        },
        [&] {
          const std::lock_guard lock(mutex);
          done = true;
          changed.notify_one();
        });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
    best = std::max(best, BytesPerSecond{28.0 * static_cast<double>(elements) / seconds_since(begin)});
  }
  return best;
}

}  // namespace

plan::MachineProfile probe_rates(swap::SwapEngine& swap, const RateProbeOptions& options) {
  SLUICE_CHECK(static_cast<int64_t>(options.memory.size()) >= kRateProbeBytes.count, "the probe needs its memory");
  plan::MachineProfile profile = options.emulated;
  constexpr double kGemmSeconds = 0.2;
  profile.compute_flops_per_second =
      models::measure_gemm_flops(options.compute_dtype, options.tokens, options.in, options.out, kGemmSeconds);
  const int threads = options.optimizer_threads > 0
                          ? options.optimizer_threads
                          : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  profile.optimizer = optimizer_rate(options.memory, threads);
  probe_disk(swap, options.memory, profile);
  return profile;
}

}  // namespace sluice::exec
