// Threads enter the front job, take its ranges by an atomic counter, and leave when none is left. The last to leave
// runs done() and takes the job off the queue, so no thread can still hold a job that is gone.
#include "optim/worker_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/core/check.h"

namespace sluice::optim {
namespace {

struct Job {
  const int64_t elements;
  const int64_t grain;
  const std::function<void(int64_t, int64_t)> body;
  const std::function<void()> done;
  std::atomic<int64_t> next = 0;  // first element that no thread has taken; may pass `elements`
  int threads_inside = 0;         // guarded by the pool's mutex

  bool has_ranges() const { return next.load(std::memory_order_relaxed) < elements; }

  void run_ranges() {
    for (;;) {
      // Relaxed: the counter only hands out ranges. What bodies wrote reaches done() through the pool's mutex.
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= elements) return;
      body(begin, std::min(begin + grain, elements));
    }
  }
};

}  // namespace

struct WorkerPool::Impl {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::unique_ptr<Job>> jobs;  // the front one runs
  bool stopping = false;
  std::vector<std::thread> threads;

  bool front_has_ranges() const { return !jobs.empty() && jobs.front()->has_ranges(); }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return front_has_ranges() || (stopping && jobs.empty()); });
      if (jobs.empty()) return;
      Job& job = *jobs.front();
      ++job.threads_inside;
      lock.unlock();
      job.run_ranges();
      lock.lock();
      if (--job.threads_inside == 0) finish_front(lock);
    }
  }

  // Nobody is inside and no range is left, so nobody enters. done() and the destruction of what the job captured run
  // unlocked: both may submit.
  void finish_front(std::unique_lock<std::mutex>& lock) {
    const Job& job = *jobs.front();
    lock.unlock();
    job.done();
    lock.lock();
    std::unique_ptr<Job> finished = std::move(jobs.front());
    jobs.pop_front();
    wake.notify_all();
    lock.unlock();
    finished.reset();
    lock.lock();
  }
};

WorkerPool::WorkerPool(int threads) : impl_(std::make_unique<Impl>()) {
  SLUICE_CHECK(threads > 0, "a pool needs a thread");
  for (int i = 0; i < threads; ++i) {
    std::thread& thread = impl_->threads.emplace_back([impl = impl_.get()] { impl->run(); });
    pthread_setname_np(thread.native_handle(), ("optim-" + std::to_string(i)).c_str());
  }
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

void WorkerPool::submit(int64_t elements, int64_t grain, std::function<void(int64_t, int64_t)> body,
                        std::function<void()> done) {
  SLUICE_CHECK(elements > 0 && grain > 0, "a job needs elements and a grain");
  SLUICE_CHECK(body != nullptr && done != nullptr, "a job needs a body and a done");
  auto job = std::make_unique<Job>(elements, grain, std::move(body), std::move(done));
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->jobs.push_back(std::move(job));
  }
  impl_->wake.notify_all();
}

int WorkerPool::threads() const { return static_cast<int>(impl_->threads.size()); }

}  // namespace sluice::optim
