// Work of one lane that goes on until told to stop: what a probe runs alone, or two of at once, to see how they slow
// each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "optim/worker_pool.h"
#include "runtime/exec/group_chunk.h"
#include "swap/swap_engine.h"

namespace sluice::exec {

class Load {
 public:
  virtual ~Load() = default;
  // Some milliseconds of work; returns how much (FLOPs, bytes). Throws RunError.
  virtual double work() = 0;
  // Waits for what is still in flight.
  virtual void rest() {}
};

// Work per second, counted from the first piece's end to the last's.
double pace_of(Load& load, double seconds);
struct Paces {
  double first = 0, second = 0;
};
// At the same time: the first on this thread (LibTorch keeps worker threads for each that calls it), the second on one
// of its own.
Paces paces_together(Load& first, Load& second, double seconds);
double share_kept(double beside, double alone);
// The share of its pace that each keeps beside the other, at most 1. The two are measured alone before and after, so
// that a machine that changes its pace meanwhile does not pass for contention.
Paces shares_kept(Load& first, Load& second, double seconds);

// Anything, once per piece.
class RepeatedLoad : public Load {
 public:
  explicit RepeatedLoad(std::function<void()> body) : body_(std::move(body)) {}
  double work() override {
    body_();
    return 1;
  }

 private:
  std::function<void()> body_;
};

// AdamW over chunks of one kind.
class OptimizerLoad : public Load {
 public:
  // Of memory beyond that, nothing is used. Several times a last-level cache (260 MiB have been seen), which a step's
  // states pass through once.
  static constexpr Bytes kBytesMost = MiB(1024);
  OptimizerLoad(int threads, std::span<std::byte> memory, UpdateKind kind = {});
  double work() override;  // bytes that it reads and writes

 private:
  optim::WorkerPool pool_;
  const UpdateKind kind_;
  std::vector<GroupChunk> chunks_;
  int64_t bytes_moved_ = 0;  // by the update of one chunk
  size_t next_ = 0;
};

// One thread that copies.
class CopyLoad : public Load {
 public:
  explicit CopyLoad(std::span<std::byte> memory) : memory_(memory) {}
  double work() override;  // bytes copied

 private:
  std::span<std::byte> memory_;
};

// All transfers of one kind, or as many bytes each way.
enum class DriveMode { read, write, both };

// A fixed number of requests in flight, each one extent.
class DriveLoad : public Load {
 public:
  struct Options {
    std::vector<swap::ExtentId> extents;  // of request_bytes, all written; at least 2 * depth
    int64_t request_bytes = 0;
    int depth = 0;
    DriveMode mode = DriveMode::read;
  };
  // `memory`: 4096-byte aligned, depth * request_bytes.
  DriveLoad(swap::SwapEngine& engine, std::span<std::byte> memory, Options options);
  ~DriveLoad() override;
  double work() override;  // bytes
  void rest() override;

 private:
  struct Request {
    size_t extent = 0;
    bool write = false;
  };
  bool next_is_write() const;
  void start(size_t place);
  double take(const std::vector<swap::Completion>& completions, bool go_on);

  swap::SwapEngine& engine_;
  std::span<std::byte> memory_;
  Options options_;
  std::vector<Request> requests_;  // by place in memory
  std::vector<uint8_t> busy_;      // by extent
  size_t next_extent_ = 0;
  int in_flight_ = 0;
  int64_t issued_[2] = {0, 0};  // requests: reads, writes
};

// Extents of one size, all written: what a DriveLoad moves. `memory` is the source, of one extent at least.
std::vector<swap::ExtentId> make_extents(swap::SwapEngine& engine, std::span<std::byte> memory, int64_t request_bytes,
                                         int64_t count);

// Runs body over [0, elements) on the pool and waits.
void run_on(optim::WorkerPool& pool, int64_t elements, int64_t grain,
            const std::function<void(int64_t, int64_t)>& body);

}  // namespace sluice::exec
