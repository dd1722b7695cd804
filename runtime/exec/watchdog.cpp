#include "runtime/exec/watchdog.h"

#include <unistd.h>

#include <algorithm>

#include "runtime/core/console.h"

namespace sluice::exec {
namespace {

// Of a compute op's planned time.
constexpr double kSlownessMax = 10;

}  // namespace

void Watchdog::begin_phase(const plan::Schedule& schedule) {
  schedule_ = &schedule;
  for (LaneInFlight& lane : lanes_) lane = {};
}

double Watchdog::limit_us(plan::OpId op) const {
  return std::max(options_.silence.count, kSlownessMax * schedule_->ops[static_cast<size_t>(op)].time.count);
}

void Watchdog::issued(plan::OpId op, double now_us) {
  LaneInFlight& lane = lanes_[static_cast<size_t>(schedule_->ops[static_cast<size_t>(op)].lane)];
  if (lane.ops.empty()) {
    lane.head_since_us = now_us;
    lane.next_report_us = 0;
  }
  lane.ops.push_back(op);
}

void Watchdog::ended(plan::OpId op, double now_us) {
  const Lane which = schedule_->ops[static_cast<size_t>(op)].lane;
  LaneInFlight& lane = lanes_[static_cast<size_t>(which)];
  if (lane.ops.front() != op) {
    lane.ops.erase(std::find(lane.ops.begin(), lane.ops.end(), op));
    return;
  }
  if (lane.reported)
    say("going on: the " + std::string(name_of(which)) + " lane has answered, after " +
        to_string(Microseconds{now_us - lane.head_since_us}));
  lane.ops.pop_front();
  lane.head_since_us = now_us;
  lane.next_report_us = 0;
  lane.reported = false;
}

void Watchdog::check(double now_us, const std::function<std::string(plan::OpId)>& waits_for) {
  for (size_t which = 0; which < kLaneCount; ++which) {
    LaneInFlight& lane = lanes_[which];
    if (lane.ops.empty()) continue;
    const plan::OpId op = lane.ops.front();
    const double age_us = now_us - lane.head_since_us;
    if (age_us < limit_us(op) || !due(age_us, lane.next_report_us)) continue;
    lane.reported = true;
    const std::string what = waits_for(op);
    say("waiting: the " + std::string(name_of(static_cast<Lane>(which))) + " lane has not answered for " +
        to_string(Microseconds{age_us}) + ": " + describe(schedule_->ops[static_cast<size_t>(op)]) +
        (what.empty() ? "" : ", " + what));
  }
}

Microseconds Watchdog::pause() const {
  constexpr double kSecond = 1e6;
  return {std::min(kSecond, options_.silence.count / 4)};
}

bool Watchdog::due(double age_us, double& next_us) const {
  if (next_us == 0) next_us = options_.silence.count;
  if (age_us < next_us) return false;
  while (next_us <= age_us) next_us *= 2;
  return true;
}

void Watchdog::say(const std::string& line) const {
  if (options_.say) return options_.say(line);
  Console(STDERR_FILENO).say(line);
}

}  // namespace sluice::exec
