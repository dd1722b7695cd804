// Says which call into a drive has not returned for long: a write or a sync blocks for as long as the drive likes, and
// a run that says nothing meanwhile looks dead. Nothing is aborted.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace sluice {

// Calls are begun and ended by any thread; a thread of its own looks at them.
class CallWatch {
 public:
  using Clock = std::chrono::steady_clock;

  // `silence`: until the first report; each further one after twice the time. `say`: a line for people, from the
  // watching thread, or at the end of a call that was reported from that call's.
  CallWatch(std::chrono::milliseconds silence, std::function<void(const std::string&)> say);
  ~CallWatch();
  CallWatch(const CallWatch&) = delete;
  CallWatch& operator=(const CallWatch&) = delete;

  // What the calls of a run are watched with.
  static std::shared_ptr<CallWatch> of_run(std::function<void(const std::string&)> say);

 private:
  friend class WatchedCall;
  struct Call {
    std::string what;
    Clock::time_point begin, report_at;
    bool reported = false;
  };
  std::list<Call>::iterator begin(std::string what);
  void end(std::list<Call>::iterator call);
  void watch();

  const std::chrono::milliseconds silence_;
  const std::function<void(const std::string&)> say_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Call> calls_;
  bool stopping_ = false;
  std::thread thread_;
};

// A call, from here to the end of the scope. `watch` may be null; `what`: "sync of FILE".
class WatchedCall {
 public:
  WatchedCall(CallWatch* watch, std::string what) : watch_(watch) {
    if (watch_ != nullptr) call_ = watch_->begin(std::move(what));
  }
  ~WatchedCall() {
    if (watch_ != nullptr) watch_->end(call_);
  }
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;

 private:
  CallWatch* watch_;
  std::list<CallWatch::Call>::iterator call_;
};

}  // namespace sluice
