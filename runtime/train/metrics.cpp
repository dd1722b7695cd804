#include "runtime/train/metrics.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "runtime/core/result.h"
#include "runtime/train/durable_folders.h"

namespace sluice::train {

std::string to_json_line(const StepRecord& record) {
  nlohmann::ordered_json json;
  json["step"] = record.step;
  json["loss"] = record.loss;
  json["grad_norm"] = record.grad_norm;
  json["learning_rate"] = record.learning_rate;
  json["tokens"] = record.tokens;
  json["step_seconds"] = record.step_seconds;
  json["tokens_per_second"] = record.tokens_per_second;
  json["bound_seconds"] = record.bound_seconds;
  json["percent_of_bound"] = record.percent_of_bound;
  json["binding_lane"] = record.binding_lane;
  json["device_peak_bytes"] = record.device_peak_bytes;
  json["host_peak_bytes"] = record.host_peak_bytes;
  json["disk_read_bytes"] = record.disk_read_bytes;
  json["disk_write_bytes"] = record.disk_write_bytes;
  if (record.loss_scale) {
    json["loss_scale"] = *record.loss_scale;
    json["skipped"] = record.skipped;
  }
  return json.dump();
}

std::optional<int64_t> step_of_line(const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return std::nullopt;
  return json["step"].get<int64_t>();
}

namespace {

// Of lines that are kept in memory: thousands of steps.
constexpr size_t kUnsyncedBytesMax = size_t{1} << 20;

// The lines of steps up to `steps_kept`. A last line without its end was being written when the run was killed; zeros
// were never written: power was lost before a checkpoint had waited for that part.
std::string kept_lines(const std::filesystem::path& file, int64_t steps_kept) {
  std::string kept;
  if (steps_kept == 0) return kept;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line) && !stream.eof();) {
    if (line.find('\0') != std::string::npos) break;
    const std::optional<int64_t> step = step_of_line(line);
    if (!step)
      throw SetupError(file.string() + ": not a log that Sluice wrote: " + line.substr(0, 80),
                       "move the file away, or train into another output_dir");
    if (*step <= steps_kept) kept += line + "\n";
  }
  return kept;
}

// A new file takes the old one's place at once, and only when its lines are safe: a kill in between loses none.
OutputFile begin_log(const std::filesystem::path& file, const std::string& kept, const SpacePatience& patience) {
  const std::filesystem::path partial = file.string() + ".partial";
  std::optional<OutputFile> log;
  until_synced(patience, [&] {
    log.emplace(partial, patience);
    log->append(kept);
    log->sync();
    rename_in_place(partial, file, patience);
    sync_folder(file.parent_path(), patience);
  });
  return std::move(*log);
}

}  // namespace

StepLog::StepLog(const std::filesystem::path& file, int64_t steps_kept, const SpacePatience& patience)
    : patience_(patience), file_(begin_log(file, kept_lines(file, steps_kept), patience)) {}

void StepLog::append(const StepRecord& record) {
  const std::string line = to_json_line(record) + "\n";
  file_.append(line);
  unsynced_ += line;
  if (unsynced_.size() > kUnsyncedBytesMax) sync();
}

void StepLog::sync() {
  bool again = false;
  until_synced(patience_, [&] {
    if (std::exchange(again, true))
      file_.write(file_.end() - static_cast<int64_t>(unsynced_.size()), std::as_bytes(std::span(unsynced_)));
    file_.sync();
  });
  unsynced_.clear();
}

bool wants_colour(int descriptor) {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
  };
  const char* terminal = set("TERM");
  return ::isatty(descriptor) == 1 && set("NO_COLOR") == nullptr &&
         (terminal == nullptr || std::strcmp(terminal, "dumb") != 0);
}

}  // namespace sluice::train
