#include "runtime/exec/lane_thread.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace sluice::exec {

EventQueue::EventQueue() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd_ < 0) throw RunError({ErrorCode::io, "eventfd: no file descriptor left", "raise `ulimit -n`"});
}

EventQueue::~EventQueue() { close(fd_); }

void EventQueue::push(LaneEvent event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  const uint64_t one = 1;
  ssize_t written;
  do written = write(fd_, &one, sizeof one);
  while (written < 0 && errno == EINTR);
  SLUICE_CHECK(written == sizeof one || errno == EAGAIN, "an eventfd counts up to 2^64");
}

std::vector<LaneEvent> EventQueue::drain() {
  uint64_t count;
  ssize_t got;
  do got = read(fd_, &count, sizeof count);
  while (got < 0 && errno == EINTR);
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

LaneThread::LaneThread(const char* name) : thread_([this] { run(); }) {
  pthread_setname_np(thread_.native_handle(), name);
}

LaneThread::~LaneThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void LaneThread::post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void LaneThread::run() {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace sluice::exec
