#include <nlohmann/json.hpp>

#include "runtime/plan/report.h"
#include "runtime/train/profile_result.h"

namespace sluice::train {
namespace {

using nlohmann::ordered_json;

double seconds_of(Microseconds time) { return time.count / 1e6; }
std::string lane_name(size_t lane) { return std::string(name_of(static_cast<Lane>(lane))); }

// `times`: the account is the sum of so many.
ordered_json lane_json(const plan::LaneTime& time, double times) {
  ordered_json json;
  const double busy = seconds_of(time.busy);
  json["busy_seconds"] = busy / times;
  json["stalled_seconds"] = seconds_of(time.stalled()) / times;
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    if (time.stalled_on[lane].count > 0)
      json["stalled_on"][lane_name(lane)] = seconds_of(time.stalled_on[lane]) / times;
  if (time.handover.count > 0) json["stalled_on"]["handover"] = seconds_of(time.handover) / times;
  json["bytes"] = static_cast<double>(time.bytes) / times;
  json["flops"] = time.flops / times;
  json["bytes_per_second"] = busy > 0 ? static_cast<double>(time.bytes) / busy : 0;
  json["flops_per_second"] = busy > 0 ? time.flops / busy : 0;
  return json;
}

ordered_json lanes_json(const std::array<plan::LaneTime, kLaneCount>& lanes, double times) {
  ordered_json json = ordered_json::object();
  for (size_t lane = 0; lane < kLaneCount; ++lane)
    if (lanes[lane].did_something()) json[lane_name(lane)] = lane_json(lanes[lane], times);
  return json;
}

// A step's lanes, with what is left of its time where a lane has nothing to do any more.
ordered_json account_json(const plan::StepAccount& account, double times) {
  ordered_json json = lanes_json(account.lanes, times);
  for (auto& [name, lane] : json.items())
    for (size_t i = 0; i < kLaneCount; ++i)
      if (name == lane_name(i)) lane["done_seconds"] = seconds_of(account.done[i]) / times;
  return json;
}

ordered_json steps_json(const Profile& profile) {
  ordered_json steps = ordered_json::array();
  for (const ProfiledStep& step : profile.steps) {
    ordered_json json = ordered_json::parse(to_json_line(step.record));
    json["lanes"] = account_json(step.account, 1);
    steps.push_back(std::move(json));
  }
  return steps;
}

ordered_json mean_json(const Profile& profile, const Job& job) {
  const plan::StepAccount mean = profile.mean();
  ordered_json json;
  json["seconds"] = profile.seconds() / static_cast<double>(profile.steps.size());
  json["lanes"] = account_json(mean, 1);
  json["blocks"] = ordered_json::array();
  for (size_t b = 0; b < mean.blocks.size(); ++b) {
    ordered_json lanes = lanes_json(mean.blocks[b], 1);
    if (lanes.empty()) continue;
    json["blocks"].push_back({{"name", b < job.shape.blocks.size() ? job.shape.blocks[b].name : "beside the blocks"},
                              {"lanes", std::move(lanes)}});
  }
  return json;
}

ordered_json energy_json(const EnergyUse& use, int64_t tokens) {
  ordered_json json;
  json["joules"] = use.joules ? ordered_json(*use.joules) : ordered_json();
  json["joules_per_token"] = use.joules ? ordered_json(*use.joules / static_cast<double>(tokens)) : ordered_json();
  if (!use.joules) json["not_measured"] = use.why_not;
  return json;
}

ordered_json picture_json(const StepPicture& picture) {
  ordered_json json;
  json["seconds"] = seconds_of(picture.time);
  json["spans"] = ordered_json::array();
  const auto rounded = [](Microseconds time) { return static_cast<int64_t>(time.count + 0.5); };
  for (const plan::Span& span : picture.timeline)
    json["spans"].push_back({name_of(span.lane), rounded(span.when.begin), rounded(span.when.end), span.what});
  for (size_t tier = 0; tier < kTierCount; ++tier)
    for (size_t tag = 0; tag < plan::kTagCount; ++tag) {
      const std::vector<int64_t>& bytes = picture.memory[tier][tag];
      const bool used = std::any_of(bytes.begin(), bytes.end(), [](int64_t each) { return each > 0; });
      if (!used) continue;
      json["memory"][std::string(name_of(static_cast<Tier>(tier)))]
          [std::string(plan::name_of(static_cast<plan::Tag>(tag)))] = bytes;
    }
  return json;
}

ordered_json disk_json(const Profile& profile, const Job& job) {
  int64_t read = 0, written = 0;
  for (const ProfiledStep& step : profile.steps) {
    read += step.record.disk_read_bytes;
    written += step.record.disk_write_bytes;
  }
  const auto steps = static_cast<double>(profile.steps.size());
  const double per_token = static_cast<double>(written) / static_cast<double>(profile.tokens());
  ordered_json json;
  json["read_bytes_per_step"] = static_cast<double>(read) / steps;
  json["write_bytes_per_step"] = static_cast<double>(written) / steps;
  json["write_bytes_per_10k_tokens"] = per_token * 1e4;
  json["job_steps"] = profile.job_steps;
  json["job_write_bytes"] = static_cast<double>(written) / steps * static_cast<double>(profile.job_steps);
  json["rated_endurance_bytes"] =
      job.rated_endurance.count > 0 ? ordered_json(job.rated_endurance.count) : ordered_json();
  return json;
}

}  // namespace

std::string to_json(const Profile& profile, const Job& job) {
  const StepRecord& last = profile.steps.back().record;
  double bound_seconds = 0;
  for (const ProfiledStep& step : profile.steps) bound_seconds += step.record.bound_seconds;
  ordered_json json;
  json["kind"] = "profile";
  json["job"] = job.config.file.string();
  json["model"] = job.config.base_model.string();
  json["device"] = profile.device;
  json["host"] = profile.host;
  json["micro_batches"] = job.shape.micro_batches;
  json["tokens_per_micro_batch"] = job.shape.tokens_max;
  json["warm_up_steps"] = profile.warm_up;
  ordered_json& summary = json["summary"];
  summary["tokens_per_second"] = profile.tokens_per_second();
  summary["seconds_per_10k_tokens"] = 1e4 / profile.tokens_per_second();
  summary["step_seconds"] = profile.seconds() / static_cast<double>(profile.steps.size());
  summary["bound_seconds"] = bound_seconds / static_cast<double>(profile.steps.size());
  summary["percent_of_bound"] = 100 * bound_seconds / profile.seconds();
  summary["binding_lane"] = last.binding_lane;
  summary["device_peak_bytes"] = last.device_peak_bytes;
  summary["host_peak_bytes"] = last.host_peak_bytes;
  summary["process_peak_bytes"] = profile.resident_peak.count;
  json["disk"] = disk_json(profile, job);
  json["energy"] = {{"gpu", energy_json(profile.gpu, profile.tokens())},
                    {"cpu", energy_json(profile.cpu, profile.tokens())}};
  json["steps"] = steps_json(profile);
  json["mean_step"] = mean_json(profile, job);
  json["plan"] = ordered_json::parse(
      plan::to_json(job.planned, job.shape, job.request.caps,
                    plan::forecast_of(job.planned, job.shape, job.request.profile, profile.job_steps)));
  json["simulated"] = picture_json(profile.simulated);
  json["measured"] = picture_json(profile.measured);
  json["log"] = ordered_json::array();
  for (const std::string& line : profile.log) json["log"].push_back(ordered_json::parse(line));
  return json.dump(-1, ' ', false, nlohmann::detail::error_handler_t::replace);
}

}  // namespace sluice::train
