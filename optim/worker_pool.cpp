#include "optim/worker_pool.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/core/check.h"

namespace sluice::optim {

struct WorkerPool::Impl {
  struct Job {
    int64_t elements, grain;
    std::function<void(int64_t, int64_t)> body;
    std::function<void()> done;
    int64_t next = 0;       // first element nobody has taken
    int64_t unfinished = 0;  // elements whose body has not returned
  };

  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::shared_ptr<Job>> jobs;
  bool stopping = false;
  std::vector<std::thread> threads;

  // The front job, when it has a range left to take.
  bool work_waits() const { return !jobs.empty() && jobs.front()->next < jobs.front()->elements; }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return work_waits() || (stopping && jobs.empty()); });
      if (!work_waits()) return;
      const std::shared_ptr<Job> job = jobs.front();
      const int64_t begin = job->next, end = std::min(begin + job->grain, job->elements);
      job->next = end;
      lock.unlock();
      job->body(begin, end);
      lock.lock();
      job->unfinished -= end - begin;
      if (job->unfinished > 0) continue;
      lock.unlock();
      job->done();
      lock.lock();
      jobs.pop_front();
      wake.notify_all();
    }
  }
};

WorkerPool::WorkerPool(int threads) : impl_(std::make_unique<Impl>()) {
  SLUICE_CHECK(threads > 0, "a pool needs a thread");
  for (int i = 0; i < threads; ++i) {
    impl_->threads.emplace_back([impl = impl_.get()] { impl->run(); });
    pthread_setname_np(impl_->threads.back().native_handle(), "optim");
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
  SLUICE_CHECK(elements > 0 && grain > 0, "an empty job");
  auto job = std::make_shared<Impl::Job>();
  job->elements = job->unfinished = elements;
  job->grain = grain;
  job->body = std::move(body);
  job->done = std::move(done);
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->jobs.push_back(std::move(job));
  }
  impl_->wake.notify_all();
}

int WorkerPool::threads() const { return static_cast<int>(impl_->threads.size()); }

}  // namespace sluice::optim
