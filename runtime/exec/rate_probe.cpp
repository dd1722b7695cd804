#include "runtime/exec/rate_probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "optim/adamw.h"
#include "optim/worker_pool.h"
#include "runtime/core/result.h"

namespace sluice::exec {
namespace {

using Clock = std::chrono::steady_clock;

// Long enough to outlast the burst of a drive's cache and the slice of a scheduler.
constexpr auto kTime = std::chrono::milliseconds(350);

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Works until told to stop; returns work per second (bytes, or runs).
using Stop = std::atomic<bool>;
using Load = std::function<double(const Stop&)>;

Load compute_load(const std::function<void()>& body) {
  return [&body](const Stop& stop) {
    const auto begin = Clock::now();
    double runs = 0;
    do {
      body();
      ++runs;
    } while (!stop);
    return runs / seconds_since(begin);
  };
}

// The update itself, on states larger than the caches; bytes of DRAM.
Load optimizer_load(std::span<std::byte> memory, optim::WorkerPool& pool) {
  const int64_t elements = round_down(static_cast<int64_t>(memory.size()) / 16, 4096);
  auto* floats = reinterpret_cast<float*>(memory.data());
  std::fill_n(floats, 4 * elements, 1e-3f);
  const auto update = [=](int64_t first, int64_t last) {
    const auto part = [=](int64_t which) {
      return std::span(floats + which * elements + first, static_cast<size_t>(last - first));
    };
    optim::adamw_f32(optim::best_isa(), {.learning_rate = 1e-3}, part(0), {part(1), {}}, part(2), part(3));
  };
  return [=, &pool](const Stop& stop) {
    const auto begin = Clock::now();
    double bytes = 0;
    do {
      // Shared: the pool's thread may still be inside set_value when wait returns.
      const auto done = std::make_shared<std::promise<void>>();
      const std::future<void> finished = done->get_future();
      pool.submit(elements, 1 << 16, update, [done] { done->set_value(); });
      finished.wait();
      bytes += 28.0 * static_cast<double>(elements);
    } while (!stop);
    return bytes / seconds_since(begin);
  };
}

enum class Direction { read, write, both };
constexpr Bytes kExtent = MiB(4);

// Keeps the queue full with transfers of whole extents.
class Drive {
 public:
  Drive(swap::SwapEngine& swap, std::span<std::byte> memory) : swap_(swap), memory_(memory) {
    for (int64_t at = 0; at < static_cast<int64_t>(memory.size()); at += kExtent.count)
      extents_.push_back(swap.create_extent(kExtent, "rate probe"));
    busy_.assign(extents_.size(), false);
    for (size_t i = 0; i < extents_.size(); ++i) start(i, Direction::write);
    drain(0);
  }
  Load load(Direction direction) {
    return [this, direction](const Stop& stop) {
      size_t next = 0;
      const auto begin = Clock::now();
      moved_bytes_ = 0;
      do {
        // Half of the extents in flight: the others' turn comes when they are free again.
        for (; in_flight_ < extents_.size() / 2; next = (next + 1) % extents_.size())
          if (!busy_[next]) start(next, direction);
        drain(in_flight_ - 1);
      } while (!stop);
      const double rate = static_cast<double>(moved_bytes_) / seconds_since(begin);
      drain(0);
      return rate;
    };
  }

 private:
  void start(size_t i, Direction direction) {
    const auto size = static_cast<size_t>(kExtent.count);
    const std::span<std::byte> place = memory_.subspan(i * size, size);
    if (direction == Direction::write || (direction == Direction::both && i % 2 == 0)) {
      swap_.write(extents_[i], place, i);
    } else {
      swap_.read(extents_[i], place, i);
    }
    busy_[i] = true;
    ++in_flight_;
  }
  // Until at most `left` are in flight.
  void drain(size_t left) {
    std::optional<Error> failure;
    while (in_flight_ > left)
      for (const swap::Completion& completion : swap_.wait(std::chrono::seconds(1))) {
        --in_flight_;
        busy_[completion.token] = false;
        moved_bytes_ += kExtent.count;
        if (!completion.result.ok()) failure = completion.result.error();
      }
    if (failure) throw RunError(*failure);
  }

  swap::SwapEngine& swap_;
  std::span<std::byte> memory_;
  std::vector<swap::ExtentId> extents_;
  std::vector<bool> busy_;
  size_t in_flight_ = 0;
  int64_t moved_bytes_ = 0;
};

void stop_after_a_while(Stop& stop) {
  std::this_thread::sleep_for(kTime);
  stop = true;
}

double rate_alone(const Load& load) {
  Stop stop = false;
  std::thread timer([&] { stop_after_a_while(stop); });
  const double rate = load(stop);
  timer.join();
  return rate;
}

struct Pair {
  double a, b;
};
Pair rates_together(const Load& a, const Load& b) {
  Stop stop = false;
  std::future<double> other = std::async(std::launch::async, [&] { return b(stop); });
  std::thread timer([&] { stop_after_a_while(stop); });
  const double mine = a(stop);
  timer.join();
  return {mine, other.get()};
}

class Probe {
 public:
  Probe(plan::MachineProfile& profile, const Load& compute)
      : profile_(profile), compute_(compute), compute_alone_(rate_alone(compute)) {}

  // Fills the lane's rate, and what it and compute leave of one another.
  BytesPerSecond lane(Lane lane, const Load& load) {
    const double alone = rate_alone(load);
    const Pair together = rates_together(compute_, load);
    beside(Lane::compute, lane) = share(together.a, compute_alone_);
    beside(lane, Lane::compute) = share(together.b, alone);
    return {alone};
  }

 private:
  static double share(double together, double alone) { return std::clamp(together / alone, 0.01, 1.0); }
  double& beside(Lane a, Lane b) { return profile_.beside[static_cast<size_t>(a)][static_cast<size_t>(b)]; }

  plan::MachineProfile& profile_;
  const Load& compute_;
  double compute_alone_;
};

}  // namespace

plan::MachineProfile probe_rates(swap::SwapEngine* swap, const RateProbeOptions& options) {
  SLUICE_CHECK(static_cast<int64_t>(options.memory.size()) >= kRateProbeBytes.count, "the probe needs its memory");
  plan::MachineProfile profile = options.emulated;
  const Load compute = compute_load(options.compute_load);
  Probe probe(profile, compute);
  const int threads = options.optimizer_threads > 0
                          ? options.optimizer_threads
                          : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  {
    optim::WorkerPool pool(threads);
    profile.optimizer = probe.lane(Lane::optim, optimizer_load(options.memory, pool));
  }
  if (swap == nullptr) return profile;
  Drive drive(*swap, options.memory);
  profile.disk_read = probe.lane(Lane::read, drive.load(Direction::read));
  profile.disk_write = probe.lane(Lane::write, drive.load(Direction::write));
  share_drive(profile, {rate_alone(drive.load(Direction::both))});
  return profile;
}

}  // namespace sluice::exec
