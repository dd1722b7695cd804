#include "runtime/plan/report.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

namespace sluice::plan {

std::string memory_table(const MemoryUse& memory, const JobShape& shape, const std::array<Bytes, kTierCount>& caps) {
  std::ostringstream out;
  char line[160];
  std::snprintf(line, sizeof line, "%-14s %14s %14s %14s\n", "peak bytes", "device", "host", "disk");
  out << line;
  const auto row = [&](std::string_view name, Bytes device, Bytes host, Bytes disk) {
    if (device.count + host.count + disk.count == 0) return;
    std::snprintf(line, sizeof line, "%-14s %14s %14s %14s\n", std::string(name).c_str(), to_string(device).c_str(),
                  to_string(host).c_str(), to_string(disk).c_str());
    out << line;
  };
  for (size_t tag = 0; tag < kTagCount; ++tag)
    row(name_of(static_cast<Tag>(tag)), memory.by_tag[0][tag], memory.by_tag[1][tag], memory.by_tag[2][tag]);
  row("inside a block", shape.device_transient_bytes, shape.transient_bytes, {});
  row("process", shape.device_process_bytes, shape.process_bytes, {});
  row("checkpoints", {}, {}, checkpoint_bytes(memory, shape));
  row("total", memory_in(Tier::device, memory, shape), memory_in(Tier::host, memory, shape),
      memory_in(Tier::disk, memory, shape));
  row("measuring", {}, memory_to_measure(shape), {});
  row("cap", caps[0], caps[1], caps[2]);
  return out.str();
}

Forecast forecast_of(const Planned& planned, const JobShape& shape, const MachineProfile& profile, int64_t steps) {
  Forecast forecast;
  const Simulation& steady = planned.steady;
  forecast.step = steady.time;
  forecast.clipped_step = planned.clipped_step();
  forecast.tokens_per_second = static_cast<double>(shape.tokens_max * shape.micro_batches) / (steady.time.count / 1e6);
  forecast.bound = steady.bound;
  forecast.percent_of_bound = 100 * steady.bound.time.count / steady.time.count;
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    forecast.busy[lane] = time_alone(static_cast<Lane>(lane), steady.work[lane], profile);
  forecast.disk_read = {steady.work[static_cast<size_t>(Lane::read)].bytes};
  forecast.disk_written = {steady.work[static_cast<size_t>(Lane::write)].bytes};
  forecast.steps = steps;
  forecast.written_by_job = forecast.disk_written * steps;
  forecast.finish = forecast.step * static_cast<double>(steps);
  return forecast;
}

std::string forecast_table(const Forecast& forecast, Bytes rated_endurance) {
  std::ostringstream out;
  char line[200];
  const auto say = [&](const auto&... values) {
    std::snprintf(line, sizeof line, values...);
    out << line;
  };
  say("%-14s %14s %14s\n", "lane", "its own work", "bound");
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    if (forecast.busy[lane].count > 0)
      say("%-14s %14s %14s%s\n", std::string(name_of(static_cast<Lane>(lane))).c_str(),
          to_string(forecast.busy[lane]).c_str(), to_string(forecast.bound.by_lane[lane]).c_str(),
          static_cast<Lane>(lane) == forecast.bound.lane ? "  binds" : "");
  say("step           %14s, %.0f tokens/s, %.1f%% of the bound\n", to_string(forecast.step).c_str(),
      forecast.tokens_per_second, forecast.percent_of_bound);
  if (forecast.clipped_step != forecast.step)
    say("  clipped      %14s, while the gradient's norm exceeds max_grad_norm\n",
        to_string(forecast.clipped_step).c_str());
  say("disk per step  %14s read, %s written\n", to_string(forecast.disk_read).c_str(),
      to_string(forecast.disk_written).c_str());
  const double terabytes = static_cast<double>(forecast.written_by_job.count) / 1e12;
  say("the whole job  %14s for %lld steps, %.3f TB written", to_string(forecast.finish).c_str(),
      static_cast<long long>(forecast.steps), terabytes);
  if (rated_endurance.count > 0)
    say(", %.2f%% of what the drives are rated for",
        100 * static_cast<double>(forecast.written_by_job.count) / static_cast<double>(rated_endurance.count));
  out << '\n';
  return out.str();
}

std::string to_json(const Planned& planned, const JobShape& shape, const std::array<Bytes, kTierCount>& caps,
                    const Forecast& forecast) {
  nlohmann::ordered_json json;
  json["plan_yaml"] = to_yaml(planned.plan, shape);
  for (size_t tier = 0; tier < kTierCount; ++tier) {
    nlohmann::ordered_json& peak = json["peak_bytes"][std::string(name_of(static_cast<Tier>(tier)))];
    for (size_t tag = 0; tag < kTagCount; ++tag)
      peak[std::string(name_of(static_cast<Tag>(tag)))] = planned.memory.by_tag[tier][tag].count;
    peak["total"] = planned.memory.peak[tier].count;
    peak["cap"] = caps[tier].count;
  }
  json["checkpoint_bytes"] = checkpoint_bytes(planned.memory, shape).count;
  json["process_bytes"] = shape.process_bytes.count;
  json["transient_bytes"] = shape.transient_bytes.count;
  json["device_process_bytes"] = shape.device_process_bytes.count;
  json["device_transient_bytes"] = shape.device_transient_bytes.count;
  json["measuring_bytes"] = shape.measuring_bytes.count;
  nlohmann::ordered_json& step = json["forecast"];
  step["step_seconds"] = forecast.step.count / 1e6;
  step["clipped_step_seconds"] = forecast.clipped_step.count / 1e6;
  step["tokens_per_second"] = forecast.tokens_per_second;
  step["bound_seconds"] = forecast.bound.time.count / 1e6;
  step["percent_of_bound"] = forecast.percent_of_bound;
  step["binding_lane"] = std::string(name_of(forecast.bound.lane));
  for (size_t lane = 0; lane < kLaneCount; ++lane) {
    nlohmann::ordered_json& each = step["lanes"][std::string(name_of(static_cast<Lane>(lane)))];
    each["seconds_alone"] = forecast.busy[lane].count / 1e6;
    each["bound_seconds"] = forecast.bound.by_lane[lane].count / 1e6;
  }
  step["disk_read_bytes"] = forecast.disk_read.count;
  step["disk_write_bytes"] = forecast.disk_written.count;
  step["steps"] = forecast.steps;
  step["job_disk_write_bytes"] = forecast.written_by_job.count;
  step["job_seconds"] = forecast.finish.count / 1e6;
  return json.dump();
}

}  // namespace sluice::plan
