#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "swap/io_backend.h"

namespace sluice::swap {
namespace {

// A request blocks its thread, so depth is threads; beyond this the kernel's queue is full anyway.
constexpr int kThreadsMax = 16;

class ThreadBackend final : public IoBackend {
 public:
  explicit ThreadBackend(int depth) : depth_(static_cast<size_t>(depth)) {
    for (int i = 0; i < std::min(depth, kThreadsMax); ++i) {
      threads_.emplace_back([this] { run(); });
      pthread_setname_np(threads_.back().native_handle(), "io-thread");
    }
  }
  ~ThreadBackend() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  size_t submit(std::span<const IoRequest> requests) override {
    size_t taken = 0;
    {
      const std::lock_guard lock(mutex_);
      for (; taken < requests.size() && in_flight_ < depth_; ++taken, ++in_flight_) queue_.push_back(requests[taken]);
    }
    work_.notify_all();
    return taken;
  }

  std::vector<IoOutcome> reap() override {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return !outcomes_.empty() || woken_; });
    woken_ = false;
    in_flight_ -= outcomes_.size();
    return std::exchange(outcomes_, {});
  }

  void wake() override {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    ended_.notify_one();
  }

  Result<void> register_memory(std::span<std::byte>) override { return {}; }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const IoRequest request = queue_.front();
      queue_.pop_front();
      lock.unlock();
      const auto bytes = static_cast<size_t>(request.bytes);
      const ssize_t moved = request.direction == Direction::read
                                ? pread(request.fd, request.memory, bytes, request.offset)
                                : pwrite(request.fd, request.memory, bytes, request.offset);
      const int64_t result = moved < 0 ? -errno : moved;
      lock.lock();
      outcomes_.push_back({request.user, result});
      ended_.notify_one();
    }
  }

  const size_t depth_;
  std::mutex mutex_;
  std::condition_variable work_, ended_;
  std::deque<IoRequest> queue_;
  std::vector<IoOutcome> outcomes_;
  size_t in_flight_ = 0;
  bool woken_ = false, stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<IoBackend> make_thread_backend(int depth) { return std::make_unique<ThreadBackend>(depth); }

}  // namespace sluice::swap
