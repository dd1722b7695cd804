// Says which lane has not answered for long, and what it is asked for. A drive may take a minute for one request; a run
// that says nothing meanwhile looks dead. Nothing is aborted.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "runtime/core/tier.h"
#include "runtime/core/units.h"
#include "runtime/plan/schedule.h"

namespace sluice::exec {

struct WatchdogOptions {
  Microseconds silence{30e6};                   // until the first report; each further one after twice the time
  std::function<void(const std::string&)> say;  // a line for people, from the driver; empty: to stderr
};

// The driver's. Times are in microseconds since the phase began.
class Watchdog {
 public:
  explicit Watchdog(WatchdogOptions options) : options_(std::move(options)) {}

  void begin_phase(const plan::Schedule& schedule);
  void issued(plan::OpId op, double now_us);
  void ended(plan::OpId op, double now_us);
  // Reports every lane whose oldest op is overdue. `waits_for`: what is known of an op beside its lane; may be empty.
  void check(double now_us, const std::function<std::string(plan::OpId)>& waits_for);
  // How long to wait for events before the next check.
  Microseconds pause() const;

  // Of a wait outside a phase, `age_us` old: true whenever a report is due. The caller keeps `next_us`, at first 0.
  bool due(double age_us, double& next_us) const;
  void say(const std::string& line) const;

 private:
  struct LaneInFlight {
    std::deque<plan::OpId> ops;  // in the order of their issue
    double head_since_us = 0;    // since when the first of them is what the lane works on
    double next_report_us = 0;
    bool reported = false;
  };
  // A slow op is not a silent one: it may take some times as long as it was planned to.
  double limit_us(plan::OpId op) const;

  WatchdogOptions options_;
  const plan::Schedule* schedule_ = nullptr;
  std::array<LaneInFlight, kLaneCount> lanes_;
};

}  // namespace sluice::exec
