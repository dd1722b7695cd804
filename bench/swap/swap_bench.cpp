// swap_bench: bytes/s that SwapEngine moves between host memory and extents, by direction.
//
//   build/release/swap_bench                            all
//   build/release/swap_bench --benchmark_filter=^read
//
// One iteration moves every extent once and ends when the last completion was read; `both` reads one half of the
// extents while it writes the other. Environment: SLUICE_BENCH_PATH (., the folder), SLUICE_BENCH_BACKEND (automatic,
// uring or thread), SLUICE_BENCH_BLOCK_MIB (4), SLUICE_BENCH_DEPTH (16), SLUICE_BENCH_GIB (2).
// The peer of the same sizes is fio: compare_fio.py.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "runtime/core/check.h"
#include "swap/host_slab.h"
#include "swap/swap_engine.h"

namespace sluice::bench {
namespace {

using swap::BackendKind;

// As large as a block's optimizer states: a transfer is many requests.
constexpr Bytes kExtent = MiB(64);

std::string from_environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

swap::SwapOptions options() {
  const std::string backend = from_environment("SLUICE_BENCH_BACKEND", "automatic");
  swap::SwapOptions options;
  options.backend = backend == "uring"    ? BackendKind::uring
                    : backend == "thread" ? BackendKind::thread
                                          : BackendKind::automatic;
  options.nvme_paths = {from_environment("SLUICE_BENCH_PATH", ".")};
  options.request_bytes = MiB(std::stoll(from_environment("SLUICE_BENCH_BLOCK_MIB", "4")));
  options.queue_depth = std::stoi(from_environment("SLUICE_BENCH_DEPTH", "16"));
  return options;
}

// Extents that fill SLUICE_BENCH_GIB of the disk, and memory for as many transfers as keep the queue full.
class Disk {
 public:
  Disk() : engine_(options()), slab_(Bytes{kTransfers * kExtent.count}) {
    const int64_t extents = GiB(std::stoll(from_environment("SLUICE_BENCH_GIB", "2"))).count / kExtent.count;
    for (int64_t i = 0; i < extents; ++i) extents_.push_back(engine_.create_extent(kExtent, "bench"));
    std::minstd_rand words(1);  // a drive may shortcut zeros
    std::span<std::byte> memory = slab_.memory();
    for (size_t i = 0; i + 4 <= memory.size(); i += 4) {
      const auto word = static_cast<uint32_t>(words());
      std::memcpy(memory.data() + i, &word, 4);
    }
    engine_.register_memory(memory);
    move(extents_.size(), 0);
  }

  // Moves every extent once, the first `writes` by writing; reads and writes start in turn.
  void move(size_t writes, size_t reads_begin) {
    std::vector<Job> jobs;
    for (size_t i = 0; i < std::max(writes, extents_.size() - reads_begin); ++i) {
      if (i < writes) jobs.push_back({extents_[i], true});
      if (writes < extents_.size() && reads_begin + i < extents_.size())
        jobs.push_back({extents_[reads_begin + i], false});
    }
    size_t started = 0, finished = 0;
    for (; started < std::min<size_t>(kTransfers, jobs.size()); ++started) start(jobs[started], started);
    while (finished < jobs.size())
      for (const swap::Completion& done : engine_.wait(std::chrono::seconds(1))) {
        SLUICE_CHECK(done.result.ok(), done.result.error().message);
        ++finished;
        if (started < jobs.size()) start(jobs[started++], done.token);
      }
  }

  size_t extents() const { return extents_.size(); }
  int64_t bytes() const { return static_cast<int64_t>(extents_.size()) * kExtent.count; }
  const char* backend() const { return engine_.backend() == BackendKind::uring ? "uring" : "thread"; }

 private:
  static constexpr int64_t kTransfers = 8;
  struct Job {
    swap::ExtentId extent;
    bool write;
  };
  void start(const Job& job, uint64_t place) {
    const auto size = static_cast<size_t>(kExtent.count);
    const std::span<std::byte> memory = slab_.memory().subspan(place * size, size);
    job.write ? engine_.write(job.extent, memory, place) : engine_.read(job.extent, memory, place);
  }

  swap::SwapEngine engine_;
  swap::HostSlab slab_;
  std::vector<swap::ExtentId> extents_;
};

Disk& disk() {
  static Disk disk;
  return disk;
}

void run(benchmark::State& state, size_t writes, size_t reads_begin) {
  for (auto _ : state) disk().move(writes, reads_begin);
  state.SetLabel(disk().backend());
  state.SetBytesProcessed(state.iterations() * disk().bytes());
}

void read(benchmark::State& state) { run(state, 0, 0); }
void write(benchmark::State& state) { run(state, disk().extents(), disk().extents()); }
void both(benchmark::State& state) { run(state, disk().extents() / 2, disk().extents() / 2); }

BENCHMARK(read)->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(4);
BENCHMARK(write)->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(4);
BENCHMARK(both)->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(4);

}  // namespace
}  // namespace sluice::bench
