#include "runtime/train/metrics.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

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

namespace {

// The lines of steps up to `steps_kept`. A last line without its end was being written when the run was killed; zeros
// were never written: power was lost before a checkpoint had waited for that part.
std::string kept_lines(const std::filesystem::path& file, int64_t steps_kept) {
  std::string kept;
  if (steps_kept == 0) return kept;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line) && !stream.eof();) {
    if (line.find('\0') != std::string::npos) break;
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer())
      throw SetupError(file.string() + ": not a log that Sluice wrote: " + line.substr(0, 80),
                       "move the file away, or train into another output_dir");
    if (json["step"].get<int64_t>() <= steps_kept) kept += line + "\n";
  }
  return kept;
}

// A new file takes the old one's place at once, and only when its lines are safe: a kill in between loses none.
OutputFile begin_log(const std::filesystem::path& file, const std::string& kept, const SpacePatience& patience) {
  const std::filesystem::path partial = file.string() + ".partial";
  OutputFile log(partial, patience);
  log.append(kept);
  log.sync();
  if (::rename(partial.c_str(), file.c_str()) != 0) throw_file_error(file, "rename", errno);
  sync_folder(file.parent_path());
  return log;
}

}  // namespace

StepLog::StepLog(const std::filesystem::path& file, int64_t steps_kept, const SpacePatience& patience)
    : file_(begin_log(file, kept_lines(file, steps_kept), patience)) {}

void StepLog::append(const StepRecord& record) { file_.append(to_json_line(record) + "\n"); }

void StepLog::sync() { file_.sync(); }

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
