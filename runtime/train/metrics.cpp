#include "runtime/train/metrics.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/core/result.h"
#include "runtime/core/units.h"
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

namespace {

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[160];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

}  // namespace

std::string progress_text(const StepRecord& record, int64_t steps_total, double seconds_left, ProgressStyle style) {
  const std::string total = std::to_string(steps_total);
  const auto strong = [&](const std::string& text) { return style.colour ? "\033[1m" + text + "\033[0m" : text; };
  const auto dim = [&](const std::string& text) { return style.colour ? "\033[2m" + text + "\033[0m" : text; };
  std::string text =
      "step " + formatted("%*lld/", static_cast<int>(total.size()), static_cast<long long>(record.step)) + total;
  text += "  loss " + strong(formatted("%.4f", record.loss));
  // A NaN may carry a sign.
  text += formatted("  grad %.3g  lr %.2e  %.0f tok/s  ", std::fabs(record.grad_norm), record.learning_rate,
                    record.tokens_per_second);
  if (record.loss_scale) text += formatted("scale %.0f  ", *record.loss_scale);
  if (record.skipped) text += strong("overflow, skipped") + "  ";
  text += formatted("%.0f%% of bound", record.percent_of_bound) + dim(" (" + std::string(record.binding_lane) + ")");
  text += "  ETA " + to_string(Microseconds{seconds_left * 1e6});
  return text;
}

ProgressLine::ProgressLine(Console& console, int64_t steps_total, bool quiet, int64_t every)
    : console_(console), steps_total_(steps_total), quiet_(quiet), every_(every), style_{wants_colour(STDOUT_FILENO)} {}

// By the clock since the first step, so that checkpoints and evaluations count; the first step, slower than the
// others, only until there is another.
double ProgressLine::seconds_left(const StepRecord& record) {
  const auto now = std::chrono::steady_clock::now();
  double seconds_per_step = record.step_seconds;
  if (first_step_ == 0) {
    first_step_ = record.step;
    first_end_ = now;
  } else {
    seconds_per_step =
        std::chrono::duration<double>(now - first_end_).count() / static_cast<double>(record.step - first_step_);
  }
  return seconds_per_step * static_cast<double>(steps_total_ - record.step);
}

void ProgressLine::show(const StepRecord& record) {
  const bool first = first_step_ == 0;
  const double left = seconds_left(record);
  const bool due = first || record.step == steps_total_ || record.step % every_ == 0;
  if (quiet_ || !due) return;
  console_.say(progress_text(record, steps_total_, left, style_));
}

}  // namespace sluice::train
