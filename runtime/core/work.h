// Long work that is not a step of training: loading, hashing, quantising, writing. Whoever does it tells how far it is;
// whoever wants to know is told.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

namespace sluice {

enum class WorkUnit : uint8_t { bytes, items };

// One piece of work at a time. Nothing here may throw.
class WorkObserver {
 public:
  virtual ~WorkObserver() = default;
  // `total`: 0 when nobody knows.
  virtual void work_began(const std::string& /*what*/, int64_t /*total*/, WorkUnit /*unit*/) {}
  // `done` of the total, more each time but for calls that overtake one another. Any thread.
  virtual void work_advanced(int64_t /*done*/) {}
  virtual void work_ended() {}
};
// Nobody wants to know.
WorkObserver& nobody();

// Told how much more has been done. Any thread.
using Advance = std::function<void(int64_t)>;

// From its construction to its end.
class Work {
 public:
  // `what` is done, for people: "verifying checkpoint-40". `observer` must outlive it.
  Work(WorkObserver& observer, const std::string& what, int64_t total, WorkUnit unit) : observer_(observer) {
    observer_.work_began(what, total, unit);
  }
  ~Work() { observer_.work_ended(); }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  // Any thread.
  void add(int64_t amount) { observer_.work_advanced(done_ += amount); }
  Advance advance() {
    return [this](int64_t amount) { add(amount); };
  }

 private:
  WorkObserver& observer_;
  std::atomic<int64_t> done_ = 0;
};

}  // namespace sluice
