#include "runtime/core/call_watch.h"

#include <pthread.h>

#include <algorithm>
#include <vector>

#include "runtime/core/units.h"

namespace sluice {
namespace {

std::string text_of(CallWatch::Clock::duration time) {
  return to_string(Microseconds{std::chrono::duration<double, std::micro>(time).count()});
}

}  // namespace

CallWatch::CallWatch(std::chrono::milliseconds silence, std::function<void(const std::string&)> say)
    : silence_(silence), say_(std::move(say)), thread_([this] { watch(); }) {
  pthread_setname_np(thread_.native_handle(), "watch");
}

CallWatch::~CallWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::shared_ptr<CallWatch> CallWatch::of_run(std::function<void(const std::string&)> say) {
  return std::make_shared<CallWatch>(std::chrono::seconds(30), std::move(say));
}

std::list<CallWatch::Call>::iterator CallWatch::begin(std::string what) {
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  calls_.push_back({std::move(what), now, now + silence_});
  // The thread sleeps until the first of the others is due, which is before this one; without any, until told.
  if (calls_.size() == 1) changed_.notify_one();
  return std::prev(calls_.end());
}

void CallWatch::end(std::list<Call>::iterator call) {
  std::list<Call> ended;
  {
    const std::lock_guard lock(mutex_);
    ended.splice(ended.begin(), calls_, call);
  }
  if (ended.front().reported)
    say_("going on: " + ended.front().what + " has returned, after " + text_of(Clock::now() - ended.front().begin));
}

void CallWatch::watch() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (calls_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto first = std::min_element(calls_.begin(), calls_.end(),
                                        [](const Call& a, const Call& b) { return a.report_at < b.report_at; });
    changed_.wait_until(lock, Clock::time_point(first->report_at));
    const auto now = Clock::now();
    std::vector<std::string> lines;
    for (Call& call : calls_) {
      if (now < call.report_at) continue;
      while (call.report_at <= now) call.report_at += call.report_at - call.begin;
      call.reported = true;
      lines.push_back("waiting: " + call.what + " has not returned for " + text_of(now - call.begin));
    }
    // A call may end while its line is written.
    lock.unlock();
    for (const std::string& line : lines) say_(line);
    lock.lock();
  }
}

}  // namespace sluice
