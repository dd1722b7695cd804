// One thread that runs the jobs of one lane in order, and an event queue on which every lane reports to the driver.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "runtime/core/result.h"
#include "runtime/exec/not_finite.h"
#include "runtime/plan/schedule.h"

namespace sluice::exec {

struct LaneEvent {
  plan::OpId op = plan::kNone;
  double begin_us = 0, end_us = 0;  // since the phase began
  std::optional<Error> error;
  double loss_sum = 0;                  // of loss ops
  std::optional<NotFinite> not_finite;  // of compute ops, where that is no error
};

// Many threads push, the driver drains. `fd` is readable while events wait.
class EventQueue {
 public:
  EventQueue();
  ~EventQueue();
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;

  void push(LaneEvent event);
  std::vector<LaneEvent> drain();
  int fd() const { return fd_; }

 private:
  std::mutex mutex_;
  std::vector<LaneEvent> events_;
  int fd_ = -1;
};

class LaneThread {
 public:
  explicit LaneThread(const char* name);  // at most 15 characters, seen in top and gdb
  ~LaneThread();                          // finishes what was posted
  LaneThread(const LaneThread&) = delete;
  LaneThread& operator=(const LaneThread&) = delete;

  void post(std::function<void()> job);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sluice::exec
