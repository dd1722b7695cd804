#include "runtime/train/step_lines.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "runtime/core/units.h"
#include "runtime/core/work_line.h"
#include "runtime/train/free_memory.h"

namespace sluice::train {
namespace {

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[160];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string strong(const std::string& text, ProgressStyle style) {
  return style.colour ? "\033[1m" + text + "\033[0m" : text;
}
std::string dim(const std::string& text, ProgressStyle style) {
  return style.colour ? "\033[2m" + text + "\033[0m" : text;
}

// A part of the live line: which goes first when there is no room for all (0 stays longest), and how it looks.
struct Segment {
  int rank = 0;
  std::string plain, painted;
};

constexpr size_t kGap = 2;
constexpr int kBarRank = 5, kBarMin = 12, kBarMax = 32;

std::string disk_text(const StepRecord& record) {
  const auto bytes = static_cast<double>(record.disk_read_bytes + record.disk_write_bytes);
  return formatted("disk %.2f GB/s", bytes / record.step_seconds / 1e9);
}

std::vector<Segment> segments_of(const RunState& state, ProgressStyle style) {
  std::vector<Segment> all;
  const auto plain = [&](int rank, const std::string& text) { all.push_back({rank, text, text}); };
  const auto named = [&](int rank, const std::string& name, const std::string& value) {
    all.push_back({rank, name + value, name + strong(value, style)});
  };
  plain(0, std::to_string(state.steps_done) + "/" + std::to_string(state.steps_total));
  if (!state.last) {
    plain(1, formatted("first step %.0f%%", 100 * state.step_share));
    return all;
  }
  const StepRecord& last = *state.last;
  named(1, "loss ", formatted("%.4f", last.loss));
  if (last.skipped) named(2, "", "overflow, skipped");
  if (last.loss_scale) plain(11, formatted("scale %.0f", *last.loss_scale));
  // A NaN may carry a sign.
  plain(9, formatted("grad %.3g", std::fabs(last.grad_norm)));
  plain(10, formatted("lr %.2e", last.learning_rate));
  plain(3, formatted("%.0f tok/s", last.tokens_per_second));
  plain(4, formatted("%.0f%% of bound", last.percent_of_bound));
  all.push_back(
      {8, "(" + std::string(last.binding_lane) + ")", dim("(" + std::string(last.binding_lane) + ")", style)});
  if (last.disk_read_bytes + last.disk_write_bytes > 0) plain(6, disk_text(last));
  plain(7, "RAM " + to_string(state.resident));
  if (state.has_device) plain(7, "VRAM " + to_string(Bytes{last.device_peak_bytes}));
  plain(2, "ETA " + to_string(Microseconds{state.seconds_left * 1e6}));
  return all;
}

}  // namespace

std::string progress_text(const StepRecord& record, int64_t steps_total, double seconds_left, ProgressStyle style) {
  const std::string total = std::to_string(steps_total);
  std::string text =
      "step " + formatted("%*lld/", static_cast<int>(total.size()), static_cast<long long>(record.step)) + total;
  text += "  loss " + strong(formatted("%.4f", record.loss), style);
  // A NaN may carry a sign.
  text += formatted("  grad %.3g  lr %.2e  %.0f tok/s  ", std::fabs(record.grad_norm), record.learning_rate,
                    record.tokens_per_second);
  if (record.loss_scale) text += formatted("scale %.0f  ", *record.loss_scale);
  if (record.skipped) text += strong("overflow, skipped", style) + "  ";
  text +=
      formatted("%.0f%% of bound", record.percent_of_bound) + dim(" (" + std::string(record.binding_lane) + ")", style);
  text += "  ETA " + to_string(Microseconds{seconds_left * 1e6});
  return text;
}

std::string run_text(const RunState& state, int columns, ProgressStyle style) {
  std::vector<Segment> all = segments_of(state, style);
  std::vector<size_t> by_rank(all.size());
  for (size_t i = 0; i < all.size(); ++i) by_rank[i] = i;
  std::stable_sort(by_rank.begin(), by_rank.end(), [&](size_t a, size_t b) { return all[a].rank < all[b].rank; });
  size_t left = static_cast<size_t>(std::max(columns, 0)), bar = 0;
  std::vector<bool> shown(all.size());
  for (const size_t i : by_rank) {
    if (all[i].rank > kBarRank && bar == 0 && left >= kBarMin + kGap) left -= kBarMin + kGap, bar = kBarMin;
    const size_t needed = all[i].plain.size() + (all[i].rank == 0 ? 0 : kGap);
    // What is wanted less never takes the place of what is wanted more.
    if (needed > left) break;
    shown[i] = true;
    left -= needed;
  }
  if (bar == 0 && left >= kBarMin + kGap) left -= kBarMin + kGap, bar = kBarMin;
  if (bar > 0) bar += std::min<size_t>(left, kBarMax - kBarMin);
  const double share = (static_cast<double>(state.steps_done) + state.step_share) /
                       static_cast<double>(std::max<int64_t>(state.steps_total, 1));
  std::string text = bar > 0 ? bar_text(share, static_cast<int>(bar)) : "";
  for (size_t i = 0; i < all.size(); ++i)
    if (shown[i]) text += (text.empty() ? "" : "  ") + all[i].painted;
  return text;
}

StepLines::StepLines(Console& console, LiveLine& live, const StepLinesOptions& options)
    : console_(console),
      live_(live),
      options_(options),
      lives_(live.draws() && options.output != StepOutput::none &&
             (live.descriptor() == STDOUT_FILENO || options.output == StepOutput::json)),
      style_{wants_colour(lives_ ? live.descriptor() : STDOUT_FILENO)} {
  state_.steps_total = options.steps_total;
  state_.steps_done = options.steps_before;
  state_.has_device = options.has_device;
}

// By the clock since the first step, so that checkpoints and evaluations count; the first step, slower than the
// others, only until there is another.
double StepLines::seconds_left(const StepRecord& record) {
  const auto now = std::chrono::steady_clock::now();
  double seconds_per_step = record.step_seconds;
  if (first_step_ == 0) {
    first_step_ = record.step;
    first_end_ = now;
  } else {
    seconds_per_step =
        std::chrono::duration<double>(now - first_end_).count() / static_cast<double>(record.step - first_step_);
  }
  return seconds_per_step * static_cast<double>(options_.steps_total - record.step);
}

void StepLines::draw() {
  if (!lives_) return;
  live_.draw([this](int columns) {
    state_.resident = resident_bytes();
    return run_text(state_, columns, style_);
  });
}

void StepLines::advanced(double share) {
  state_.step_share = share;
  draw();
}

void StepLines::ended(const StepRecord& record) {
  const bool first = first_step_ == 0, last = record.step == options_.steps_total;
  state_.seconds_left = seconds_left(record);
  state_.last = record;
  state_.steps_done = record.step;
  state_.step_share = 0;
  const bool due = first || last || record.step % options_.every == 0;
  if (options_.output == StepOutput::json)
    console_.say(to_json_line(record));
  else if (options_.output == StepOutput::lines && (lives_ ? last : due))
    console_.say(progress_text(record, options_.steps_total, state_.seconds_left, style_));
  last ? live_.clear() : draw();
}

}  // namespace sluice::train
