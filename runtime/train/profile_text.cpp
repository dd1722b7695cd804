#include <algorithm>
#include <cstdio>
#include <sstream>

#include "runtime/plan/report.h"
#include "runtime/train/machine_units.h"
#include "runtime/train/profile_result.h"

namespace sluice::train {
namespace {

using Lanes = std::array<plan::LaneTime, kLaneCount>;

std::string lane_name(size_t lane) { return std::string(name_of(static_cast<Lane>(lane))); }

std::string padded(std::string text, size_t width) {
  if (text.size() < width) text.insert(0, width - text.size(), ' ');
  return text;
}

// Of the work while the lane was busy. Compute has FLOPs, the others bytes; compute's own updates have neither.
std::string rate_of(const plan::LaneTime& time) {
  const double busy_seconds = time.busy.count / 1e6;
  if (busy_seconds <= 0) return "";
  if (time.flops > 0) return short_text_of(kFlopsRate, time.flops / busy_seconds);
  return time.bytes > 0 ? short_text_of(kRate, static_cast<double>(time.bytes) / busy_seconds) : "";
}

// What it stalled on, most first, each that is worth a word.
std::vector<std::pair<std::string, Microseconds>> causes_of(const plan::LaneTime& time) {
  std::vector<std::pair<std::string, Microseconds>> causes;
  for (size_t lane = 0; lane < kLaneCount; ++lane) causes.emplace_back(lane_name(lane), time.stalled_on[lane]);
  causes.emplace_back("handover", time.handover);
  std::erase_if(causes, [&](const auto& cause) { return cause.second.count < 0.01 * time.stalled().count; });
  std::erase_if(causes, [](const auto& cause) { return cause.second.count <= 0; });
  std::stable_sort(causes.begin(), causes.end(),
                   [](const auto& a, const auto& b) { return a.second.count > b.second.count; });
  return causes;
}

// "41.2 ms +3.1 ms read 1.2 GB/s": busy, stalled and most on what, rate.
std::string cell_of(const plan::LaneTime& time) {
  if (!time.did_something()) return "-";
  std::string text = to_string(time.busy);
  if (const auto causes = causes_of(time); !causes.empty() && time.stalled().count >= 0.01 * time.busy.count)
    text += " +" + to_string(time.stalled()) + ' ' + causes.front().first;
  if (const std::string rate = rate_of(time); !rate.empty()) text += ' ' + rate;
  return text;
}

// Columns as wide as they need to be, the first one to the left.
class Table {
 public:
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const {
    std::vector<size_t> widths;
    for (const auto& row : rows_)
      for (size_t i = 0; i < row.size(); ++i) {
        if (widths.size() <= i) widths.push_back(0);
        widths[i] = std::max(widths[i], row[i].size());
      }
    std::string out;
    for (const auto& row : rows_) {
      std::string line = row[0] + std::string(widths[0] - row[0].size(), ' ');
      for (size_t i = 1; i < row.size(); ++i) line += "  " + padded(row[i], widths[i]);
      out += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::vector<size_t> lanes_used(const plan::StepAccount& mean) {
  std::vector<size_t> lanes;
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    if (mean.lanes[lane].busy.count > 0) lanes.push_back(lane);
  return lanes;
}

std::vector<std::string> with_cells(std::vector<std::string> row, const Lanes& lanes, const std::vector<size_t>& used) {
  for (const size_t lane : used) row.push_back(cell_of(lanes[lane]));
  return row;
}
std::vector<std::string> with_names(std::vector<std::string> row, const std::vector<size_t>& used) {
  for (const size_t lane : used) row.push_back(lane_name(lane));
  return row;
}

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[240];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string steps_table(const Profile& profile, const std::vector<size_t>& used) {
  Table table;
  table.add(with_names({"step", "time", "tokens/s", "of bound"}, used));
  for (const auto& [record, account] : profile.steps)
    table.add(with_cells({std::to_string(record.step), to_string(Microseconds{record.step_seconds * 1e6}),
                          formatted("%.0f", record.tokens_per_second), formatted("%.0f%%", record.percent_of_bound)},
                         account.lanes, used));
  return table.text();
}

std::string lanes_table(const plan::StepAccount& mean, const std::vector<size_t>& used) {
  Table table;
  table.add({"lane", "busy", "stalled", "done", "moved", "rate", "stalled on"});
  for (const size_t lane : used) {
    const plan::LaneTime& time = mean.lanes[lane];
    std::string on;
    for (const auto& [name, cause] : causes_of(time)) on += (on.empty() ? "" : ", ") + name + ' ' + to_string(cause);
    table.add({lane_name(lane), to_string(time.busy), to_string(time.stalled()), to_string(mean.done[lane]),
               time.bytes > 0 ? to_string(Bytes{time.bytes}) : "-", rate_of(time), on.empty() ? "nothing" : on});
  }
  return table.text();
}

std::string blocks_table(const plan::StepAccount& mean, const Job& job, const std::vector<size_t>& used) {
  Table table;
  table.add(with_names({"block"}, used));
  for (size_t b = 0; b < mean.blocks.size(); ++b) {
    const auto& lanes = mean.blocks[b];
    if (std::none_of(lanes.begin(), lanes.end(), [](const auto& lane) { return lane.did_something(); })) continue;
    const std::string name = b < job.shape.blocks.size() ? job.shape.blocks[b].name : "beside the blocks";
    table.add(with_cells({name}, lanes, used));
  }
  return table.text();
}

std::string energy_line(const char* what, const EnergyUse& use, int64_t tokens, double seconds) {
  if (!use.joules) return std::string(what) + "not measured: " + use.why_not + '\n';
  return what + formatted("%.4g J a token, %.4g W\n", *use.joules / static_cast<double>(tokens), *use.joules / seconds);
}

std::string disk_lines(const Profile& profile, const Job& job) {
  int64_t read = 0, written = 0;
  for (const ProfiledStep& step : profile.steps) {
    read += step.record.disk_read_bytes;
    written += step.record.disk_write_bytes;
  }
  const auto steps = static_cast<int64_t>(profile.steps.size());
  const double job_bytes = static_cast<double>(written / steps * profile.job_steps);
  std::string text = "disk           " + to_string(Bytes{read / steps}) + " read and " +
                     to_string(Bytes{written / steps}) + " written a step; " +
                     to_string(Bytes{static_cast<int64_t>(static_cast<double>(written) * 1e4 /
                                                          static_cast<double>(profile.tokens()))}) +
                     " written per 10,000 tokens\n";
  text += formatted("drive wear     %.3f TB written by the whole job of %lld steps", job_bytes / 1e12,
                    static_cast<long long>(profile.job_steps));
  if (job.rated_endurance.count > 0)
    return text + formatted(", %.2f%% of what the drives are rated for\n",
                            100 * job_bytes / static_cast<double>(job.rated_endurance.count));
  return text + "; what the drives are rated for is not known\n";
}

}  // namespace

int64_t Profile::tokens() const {
  int64_t sum = 0;
  for (const ProfiledStep& step : steps) sum += step.record.tokens;
  return sum;
}

double Profile::seconds() const {
  double sum = 0;
  for (const ProfiledStep& step : steps) sum += step.record.step_seconds;
  return sum;
}

double Profile::tokens_per_second() const { return static_cast<double>(tokens()) / seconds(); }

plan::StepAccount Profile::mean() const {
  plan::StepAccount mean;
  for (const ProfiledStep& step : steps) mean += step.account;
  mean /= static_cast<int64_t>(steps.size());
  return mean;
}

std::string to_text(const Profile& profile, const Job& job) {
  const plan::StepAccount mean = profile.mean();
  const std::vector<size_t> used = lanes_used(mean);
  std::ostringstream out;
  out << job.config.base_model.string() << " on " << profile.device << ": " << profile.steps.size() << " steps after "
      << profile.warm_up << " to warm up, " << profile.tokens() / static_cast<int64_t>(profile.steps.size())
      << " tokens a step\n"
      << "In tables: busy, + stalled and on which lane most, the rate while busy. handover: nothing ran that was "
         "waited "
         "for.\n\n"
      << steps_table(profile, used) << '\n'
      << "The mean step\n"
      << lanes_table(mean, used) << '\n'
      << blocks_table(mean, job, used) << '\n'
      << plan::memory_table(job.planned.memory, job.shape, job.request.caps) << "in use at most "
      << to_string(Bytes{profile.steps.back().record.device_peak_bytes}) << " of the device's arena, "
      << to_string(Bytes{profile.steps.back().record.host_peak_bytes}) << " of the host's; the process held "
      << to_string(profile.resident_peak) << " of RAM at most\n\n"
      << formatted("tokens         %.1f a second, %.2f s per 10,000\n", profile.tokens_per_second(),
                   1e4 / profile.tokens_per_second())
      << disk_lines(profile, job) << energy_line("energy, GPU    ", profile.gpu, profile.tokens(), profile.seconds())
      << energy_line("energy, CPU    ", profile.cpu, profile.tokens(), profile.seconds());
  return out.str();
}

}  // namespace sluice::train
