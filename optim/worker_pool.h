// A few threads that run fixed ranges of one job, then report. Own threads, so that the update never borrows
// the compute pool's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace sluice::optim {

class WorkerPool {
 public:
  explicit WorkerPool(int threads);
  ~WorkerPool();  // finishes what was submitted
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Queues a job (FIFO; one job runs at a time): body(begin, end) over [0, elements) cut into `grain`-sized ranges
  // handed to the threads; then done() once, on a pool thread. Never blocks. body and done must not throw.
  void submit(int64_t elements, int64_t grain, std::function<void(int64_t, int64_t)> body, std::function<void()> done);
  int threads() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::optim
