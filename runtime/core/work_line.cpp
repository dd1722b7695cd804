#include "runtime/core/work_line.h"

#include <algorithm>
#include <cmath>

#include "runtime/core/units.h"

namespace sluice {
namespace {

// Shorter work is over before anybody wonders.
constexpr double kTellAfterSeconds = 2;
constexpr double kUnknownEverySeconds = 5;

double share_of(const WorkState& state) {
  if (state.total <= 0) return 0;
  return std::clamp(static_cast<double>(state.done) / static_cast<double>(state.total), 0.0, 1.0);
}

std::string percent(double share) { return std::to_string(static_cast<int>(share * 100)) + "%"; }

std::string left_text(const WorkState& state) {
  const double share = share_of(state);
  return to_string(Microseconds{state.seconds * (1 - share) / share * 1e6}) + " left";
}

std::string amount_text(const WorkState& state) {
  const std::string done = state.unit == WorkUnit::items ? std::to_string(state.done) : to_string(Bytes{state.done});
  if (state.total <= 0) return done + " so far";
  if (state.unit == WorkUnit::items) return done + " of " + std::to_string(state.total);
  return done + " of " + to_string(Bytes{state.total});
}

}  // namespace

std::string bar_text(double share, int columns) {
  const int inside = std::max(columns, 3) - 2;
  const int full = std::clamp(static_cast<int>(std::floor(share * inside)), 0, inside);
  return "[" + std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(inside - full), '.') + "]";
}

std::string work_text(const WorkState& state, int columns) {
  constexpr int kBar = 22, kGap = 2;
  const double share = share_of(state);
  std::string text = state.what;
  const auto room = static_cast<size_t>(std::max(columns, 0));
  const std::string part = state.total > 0 ? percent(share) : "";
  const size_t what_max = room > part.size() + kGap ? room - part.size() - kGap : 0;
  if (text.size() > what_max) text = text.substr(0, what_max);
  const auto add = [&](const std::string& more, size_t reserved) {
    if (text.size() + kGap + more.size() + reserved <= room) text += "  " + more;
  };
  if (state.total > 0) {
    add(bar_text(share, kBar), part.size() + kGap);
    add(part, 0);
  }
  if (state.total > 0 || state.done > 0) add(amount_text(state), 0);
  // A rate and what is left mean nothing yet at first.
  if (state.seconds > 0.5 && state.unit == WorkUnit::bytes && state.done > 0)
    add(to_string(Bytes{static_cast<int64_t>(static_cast<double>(state.done) / state.seconds)}) + "/s", 0);
  if (state.seconds > 0.5 && share > 0 && share < 1) add(left_text(state), 0);
  return text;
}

void WorkLine::work_began(const std::string& what, int64_t total, WorkUnit unit) {
  {
    const std::lock_guard lock(mutex_);
    state_ = {what, 0, total, unit, 0};
    tenths_said_ = 0;
    next_said_s_ = kUnknownEverySeconds;
    begin_ = std::chrono::steady_clock::now();
  }
  work_advanced(0);
}

void WorkLine::work_advanced(int64_t done) {
  std::string line;
  WorkState state;
  {
    const std::lock_guard lock(mutex_);
    state_.done = std::max(state_.done, done);
    state_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    state = state_;
    if (!live_.draws()) line = due_line();
  }
  if (!line.empty()) lines_.say(line);
  live_.draw([&](int columns) { return work_text(state, columns); });
}

// A line per tenth, or now and then where nobody knows the total: also a log file shall be readable.
std::string WorkLine::due_line() {
  const double share = share_of(state_);
  const std::string time = to_string(Microseconds{state_.seconds * 1e6});
  if (state_.total <= 0) {
    if (state_.seconds < next_said_s_) return "";
    next_said_s_ = state_.seconds + kUnknownEverySeconds;
    return state_.what + (state_.done > 0 ? ": " + amount_text(state_) : "") + ", " + time;
  }
  const int tenths = static_cast<int>(share * 10);
  if (tenths <= tenths_said_ || state_.seconds < kTellAfterSeconds) return "";
  tenths_said_ = tenths;
  return state_.what + ": " + percent(share) + ", " + time + (tenths < 10 ? ", about " + left_text(state_) : "");
}

void WorkLine::work_ended() { live_.clear(); }

}  // namespace sluice
