#include "runtime/train/job_measurements.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/decoder_json.h"
#include "runtime/core/result.h"
#include "runtime/train/cache_folder.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/free_memory.h"
#include "runtime/train/job_rates.h"
#include "runtime/train/swap_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr double kDaysMax = 7;
constexpr auto kSuffix = ".json";

fs::path folder() { return cache_folder() / "measured"; }

// Another build may compute otherwise: size and date of the library that holds this function.
std::string build_identity() {
  Dl_info place{};
  struct stat about {};
  if (dladdr(reinterpret_cast<void*>(&forget_measurements), &place) == 0 || stat(place.dli_fname, &about) != 0)
    return "unknown";
  return std::to_string(about.st_size) + ' ' + std::to_string(about.st_mtim.tv_sec) + '.' +
         std::to_string(about.st_mtim.tv_nsec);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Limits that differ by little from start to start are one.
int64_t about(Bytes bytes) { return round_down(bytes.count, MiB(64).count); }

ordered_json key_of_work(const Job& job) {
  const exec::PassSize size = pass_size(job.setup, job.batch);
  ordered_json key = {
      {"build", build_identity()},
      {"host", host_identity()},
      {"threads", environment("OMP_NUM_THREADS") + '/' + environment("MKL_NUM_THREADS")},
      {"model", models::to_json(job.setup.spec)},
      {"compute_dtype", name_of(job.setup.model.compute_dtype)},
      {"gradient_dtype", name_of(size.gradient_dtype)},
      {"tokens", size.tokens},
      {"document", size.document},
  };
  if (job.setup.adapter) {
    key["lora"] = {job.setup.adapter->rank, job.setup.adapter->dropout > 0, job.setup.adapter->target_modules};
  }
  return key;
}

ordered_json key_of_passes(const Job& job, Bytes spare) {
  ordered_json key = key_of_work(job);
  key["kind"] = "passes";
  key["spare"] = about(std::min(spare, exec::kCacheSweepBytesMost));
  return key;
}

ordered_json key_of_rates(const Job& job) {
  ordered_json key = key_of_work(job);
  key["kind"] = "rates";
  key["update_rule"] = name_of(job.config.update_rule);
  key["optimizer_state"] = name_of(job.config.offload.optimizer_state);
  key["memory"] = about(probe_memory(job));
  key["beside_compute"] = job.gpu == nullptr;
  if (job.config.device == DeviceKind::emulated) key["link"] = emulated_link(job.config).count;
  if (!plan::needs_disk(job.shape, job.request)) return key;
  key["io_backend"] = job.config.offload.io_backend;
  for (const fs::path& path : job.config.offload.nvme_path) {
    struct stat about {};
    if (stat(nearest_existing(path).c_str(), &about) == 0) key["drives"].push_back(about.st_dev);
  }
  return key;
}

// Steps of short passes have a pace of their own: what it costs to start an op weighs more there.
ordered_json key_of_pace(const Job& job, const exec::BlockPasses& passes) {
  double longest_us = 1;
  for (const exec::BlockPass& pass : passes.blocks)
    longest_us = std::max(longest_us, pass.backward.count / passes.pace);
  return {{"kind", "pace"},
          {"build", build_identity()},
          {"host", host_identity()},
          {"threads", environment("OMP_NUM_THREADS") + '/' + environment("MKL_NUM_THREADS")},
          {"computed_by", job.gpu ? job.gpu->name() : "cpu"},
          {"compute_dtype", name_of(job.setup.model.compute_dtype)},
          {"digits_of_the_longest_pass", std::to_string(std::llround(longest_us)).size()}};
}

// Nothing when there is no folder to keep it in.
std::optional<fs::path> file_of(const ordered_json& key) try {
  return folder() / (short_hash(key.dump()) + kSuffix);
} catch (const SetupError&) {
  return std::nullopt;
}

template <class Value>
std::optional<Value> kept(const fs::path& place, const ordered_json& key, Value (*from)(const nlohmann::json&)) try {
  std::ifstream file(place);
  if (!file) return std::nullopt;
  const nlohmann::json document = nlohmann::json::parse(file);
  const std::optional<double> days = days_since(document.at("measured"));
  if (!days || *days > kDaysMax || document.at("key") != nlohmann::json(key)) return std::nullopt;
  return from(document.at("value"));
} catch (const nlohmann::json::exception&) {  // damaged: it is written anew
  return std::nullopt;
}

void remove_old(const fs::path& folder) {
  std::error_code failed;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, failed)) {
    const auto age = fs::file_time_type::clock::now() - entry.last_write_time(failed);
    if (!failed && age > std::chrono::hours(static_cast<int>(24 * kDaysMax))) fs::remove(entry.path(), failed);
  }
}

// Whole or not at all: other jobs may start at this moment.
void keep(const fs::path& file, const ordered_json& key, ordered_json value) {
  const ordered_json document = {
      {"measured", time_text(std::time(nullptr))}, {"key", key}, {"value", std::move(value)}};
  try {
    make_folders(file.parent_path());
    remove_old(file.parent_path());
    replace_file(file, document.dump(1) + "\n");
  } catch (const RunError&) {
    // It is measured again next time.
  }
}

ordered_json to_json(const exec::BlockPasses& passes) {
  ordered_json blocks = ordered_json::array();
  for (const exec::BlockPass& pass : passes.blocks)
    blocks.push_back({pass.forward.count, pass.backward.count, pass.backward_recomputing.count});
  return {{"blocks_us", std::move(blocks)},
          {"transient", passes.transient.count},
          {"resident_later", passes.resident_later.count},
          {"pace", passes.pace}};
}

exec::BlockPasses passes_from(const nlohmann::json& json) {
  exec::BlockPasses passes;
  for (const auto& [forward, backward, recomputing] : json.at("blocks_us").get<std::vector<std::array<double, 3>>>())
    passes.blocks.push_back({{forward}, {backward}, {recomputing}, {}});
  passes.transient = {json.at("transient").get<int64_t>()};
  passes.resident_later = {json.at("resident_later").get<int64_t>()};
  passes.pace = json.at("pace").get<double>();
  return passes;
}

ordered_json to_json(const plan::MachineProfile& profile) {
  return {{"bytes_per_second",
           {profile.h2d.count, profile.d2h.count, profile.disk_read.count, profile.disk_write.count,
            profile.optimizer.count}},
          {"beside", profile.beside}};
}

plan::MachineProfile profile_from(const nlohmann::json& json) {
  const auto rates = json.at("bytes_per_second").get<std::array<double, 5>>();
  plan::MachineProfile profile{{rates[0]}, {rates[1]}, {rates[2]}, {rates[3]}, {rates[4]}};
  profile.beside = json.at("beside").get<plan::LaneMatrix>();
  return profile;
}

std::vector<double> paces_from(const nlohmann::json& json) { return json.get<std::vector<double>>(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

// The median of past jobs; the measured passes count as one job more, and without experience as all there is.
double usual_pace(const Job& job, const exec::BlockPasses& passes) {
  const ordered_json key = key_of_pace(job, passes);
  const std::optional<fs::path> file = file_of(key);
  std::vector<double> paces = (file ? kept(*file, key, paces_from) : std::nullopt).value_or(std::vector<double>{});
  paces.push_back(1);
  return median(std::move(paces));
}

}  // namespace

exec::BlockPasses measured_passes(const Job& job, exec::PassPlace& place, Bytes spare) {
  const exec::BlockPasses passes =
      exec::measure_block_passes(place, job.setup.model, pass_size(job.setup, job.batch), spare);
  const double pace = usual_pace(job, passes);
  exec::BlockPasses usual = exec::slowed(passes, pace);
  usual.pace = pace;
  return usual;
}

void remember_pace(const Job& job, std::vector<double> paces) {
  constexpr size_t kWarmUp = 2, kStepsLeast = 3, kJobsRemembered = 15;
  constexpr double kLeast = 0.5, kMost = 4;  // beyond, something else was the matter
  const ordered_json key = key_of_pace(job, job.passes);
  const std::optional<fs::path> file = file_of(key);
  if (!file || paces.size() < kWarmUp + kStepsLeast) return;
  paces.erase(paces.begin(), paces.begin() + kWarmUp);
  const double pace = job.passes.pace * median(std::move(paces));
  if (pace < kLeast || pace > kMost) return;
  std::vector<double> before = kept(*file, key, paces_from).value_or(std::vector<double>{});
  before.push_back(pace);
  if (before.size() > kJobsRemembered) before.erase(before.begin());
  keep(*file, key, before);
}

exec::BlockPasses passes_of(Job& job, Bytes spare) {
  const ordered_json key = key_of_passes(job, spare);
  const std::optional<fs::path> file = file_of(key);
  if (file) {
    job.measurements.push_back(*file);
    if (std::optional<exec::BlockPasses> before = kept(*file, key, passes_from);
        before && before->blocks.size() == job.setup.model.blocks.size())
      return std::move(*before);
  }
  const Bytes resident = resident_bytes();
  exec::BlockPasses passes = measured_passes(job, *exec::make_host_place(), spare);
  passes.resident_later = std::max(resident_bytes() - resident, Bytes{});
  if (file) keep(*file, key, to_json(passes));
  passes.resident_later = {};
  return passes;
}

plan::MachineProfile rates_of(Job& job) {
  const ordered_json key = key_of_rates(job);
  const std::optional<fs::path> file = file_of(key);
  if (file) {
    job.measurements.push_back(*file);
    if (const auto before = kept(*file, key, profile_from)) return *before;
  }
  const plan::MachineProfile profile = measure_rates(job);
  if (file) keep(*file, key, to_json(profile));
  return profile;
}

void forget_measurements() try {
  std::error_code none_there;
  fs::remove_all(folder(), none_there);
} catch (const SetupError&) {  // no cache folder
}

void forget_if_disturbed(const Job& job, double compute_pace) {
  constexpr double kDisturbed = 0.85;
  if (compute_pace >= kDisturbed) return;
  std::error_code none_there;
  for (const fs::path& file : job.measurements) fs::remove(file, none_there);
}

}  // namespace sluice::train
