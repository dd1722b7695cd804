#include "runtime/train/study_run.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "runtime/core/console.h"
#include "runtime/core/processor.h"
#include "runtime/core/result.h"
#include "runtime/core/units.h"
#include "runtime/train/child_process.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/entry.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/output_folder.h"
#include "runtime/train/report.h"
#include "runtime/train/stop_request.h"
#include "runtime/train/study_results.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kSetupFailed = 2;
constexpr std::string_view kFixOfReason = "; fix: ";

// What follows `key` and a colon in a file of such lines.
std::string line_of(const fs::path& file, const std::string& key) {
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);)
    if (line.starts_with(key)) {
      const size_t colon = line.find(':');
      return line.substr(std::min(line.find_first_not_of(" \t", colon + 1), line.size()));
    }
  return {};
}

// Processor, cores and GPUs.
std::string this_machine() {
  std::string text = processor_name() + ", " + std::to_string(usable_cores()) + " cores";
  std::error_code ignored;
  for (const auto& gpu : fs::directory_iterator("/proc/driver/nvidia/gpus", ignored))
    text += ", " + line_of(gpu.path() / "information", "Model");
  return text;
}

// What a command said when it refused or broke, as one line.
std::string reason_of(int code, const std::string& errors) {
  constexpr std::string_view kMark = "sluice: ", kFix = "\n  fix: ";
  const size_t begin = errors.starts_with(kMark) ? 0 : errors.find("\nsluice: ");
  std::string text = begin == std::string::npos ? errors : errors.substr(errors.find(kMark, begin) + kMark.size());
  for (size_t at; (at = text.find(kFix)) != std::string::npos;) text.replace(at, kFix.size(), kFixOfReason);
  for (char& c : text)
    if (c == '\n') c = ' ';
  text.erase(text.find_last_not_of(' ') + 1);
  if (code >= 0) return text;
  return "ended by signal " + std::to_string(-code) + (code == -9 ? " (out of memory?)" : "") +
         (text.empty() ? "" : ": " + text);
}

struct Answer {
  int code = 0;
  std::string output, errors;
  double seconds = 0;
};

class StudyRun {
 public:
  StudyRun(const Study& study, const StudyOptions& options)
      : study_(study), options_(options), folder_(study.output_dir), store_(study.output_dir, context()) {
    results_.planned_only = options.plan_only || !options.machine.empty();
    results_.machine = options.machine.empty() ? this_machine() : read_machine(options.machine).name;
    results_.cells.resize(study.cells.size());
  }

  int run() {
    check_report();
    folder_.make_and_lock();
    say(std::to_string(study_.cells.size()) + " cells on " + results_.machine + ": planning");
    if (!plan_all()) return stopped();
    write_tables();
    refuse_what_no_cell_can();
    say_what_is_ahead();
    if (!results_.planned_only && !measure_all()) return stopped();
    write_html();
    say("results: " + study_.output_dir.string() + "/study.csv, study.md, study.json, report.html");
    for (const CellResult& cell : results_.cells)
      if (cell.state == CellState::failed) return 3;
    return 0;
  }

 private:
  std::string context() const {
    return text_of(study_.base) + "\nsteps " + std::to_string(study_.steps) + "\nversion " SLUICE_VERSION "\n" +
           (options_.machine.empty() ? this_machine() : text_of(options_.machine));
  }
  void say(const std::string& line) { console_.say(line); }
  std::string name_of(size_t i) const {
    const std::string total = std::to_string(study_.cells.size());
    std::string number = std::to_string(i + 1);
    number.insert(0, total.size() - number.size(), ' ');
    return "[" + number + "/" + total + "] " + study_.cells[i].name() + ": ";
  }

  // Nothing when the study is to stop.
  std::optional<Answer> ask(const char* command, const StudyCell& cell, const std::vector<std::string>& options) {
    std::vector<std::string> line = {fs::read_symlink("/proc/self/exe"), command, study_.base};
    for (std::string& setting : cell.overrides()) line.push_back(std::move(setting));
    line.insert(line.end(), options.begin(), options.end());
    const auto begin = std::chrono::steady_clock::now();
    ChildProcess child(line, {std::string(kEndsWithParent) + "=" + std::to_string(getpid())});
    child.close_input();
    bool told = false;
    while (child.read_more())
      // A terminal's Ctrl-C reaches the cell by itself: a signal of another kind is no second one.
      if (stop_.signal() != 0 && !std::exchange(told, true)) child.send(SIGTERM);
    Answer answer{child.wait(), std::move(child.output), std::move(child.errors), 0};
    answer.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (stop_.signal() != 0 && answer.code != 0) return std::nullopt;
    return answer;
  }

  bool plan_all() {
    for (size_t i = 0; i < study_.cells.size(); ++i) {
      if (stop_.signal() != 0 || !plan_cell(i)) return false;
      say_plan(i);
    }
    return true;
  }

  // What was skipped or failed is tried anew: what was in its way may be gone.
  bool plan_cell(size_t i) {
    CellResult& result = results_.cells[i];
    if (std::optional<CellResult> stored = store_.find(study_.cells[i]); stored && !stored->plan.empty()) {
      result = std::move(*stored);
      if (result.state != CellState::measured) result.state = CellState::planned;
      return true;
    }
    std::vector<std::string> options = {"--json"};
    if (!options_.machine.empty()) options.insert(options.end(), {"--machine", options_.machine});
    const std::optional<Answer> answer = ask("plan", study_.cells[i], options);
    if (!answer) return false;
    result.plan_seconds = answer->seconds;
    if (answer->code == 0 && is_json(answer->output)) {
      result.state = CellState::planned;
      result.plan = answer->output;
    } else {
      result.state = answer->code == kSetupFailed ? CellState::skipped : CellState::failed;
      result.reason = reason_of(answer->code, answer->errors);
    }
    store_.save(study_.cells[i], result);
    return true;
  }

  // A file that is not there is no finding about a grid.
  void refuse_what_no_cell_can() const {
    const CellResult& first = results_.cells[0];
    for (const CellResult& each : results_.cells)
      if (each.state != CellState::skipped || each.reason != first.reason) return;
    const size_t fix = std::min(first.reason.find(kFixOfReason), first.reason.size());
    const bool has_fix = fix < first.reason.size();
    throw SetupError("no cell can run: " + first.reason.substr(0, fix),
                     has_fix ? first.reason.substr(fix + kFixOfReason.size()) : "");
  }

  void say_plan(size_t i) {
    const CellResult& result = results_.cells[i];
    if (result.state == CellState::measured) return say(name_of(i) + "measured before");
    if (result.plan.empty())
      return say(name_of(i) + (result.state == CellState::failed ? "failed: " : "skipped: ") + result.reason);
    const json forecast = json::parse(result.plan).at("forecast");
    char text[120];
    std::snprintf(text, sizeof text, "fits; planned: %.0f tokens/s, %s a step, %s binds",
                  forecast.at("tokens_per_second").get<double>(),
                  to_string(Microseconds{forecast.at("step_seconds").get<double>() * 1e6}).c_str(),
                  forecast.at("binding_lane").get<std::string>().c_str());
    say(name_of(i) + text);
  }

  // Start and preparation as planning took them, then the steps as planned.
  double foreseen_seconds(const CellResult& result) const {
    const double step = json::parse(result.plan).at("forecast").at("step_seconds");
    return result.plan_seconds + step * static_cast<double>(kProfileWarmUpSteps + study_.steps);
  }

  void say_what_is_ahead() {
    int ahead = 0, skipped = 0, there = 0;
    double seconds = 0;
    for (const CellResult& result : results_.cells) {
      skipped += result.plan.empty() ? 1 : 0;
      there += result.state == CellState::measured ? 1 : 0;
      if (result.state != CellState::planned) continue;
      ++ahead;
      seconds += foreseen_seconds(result);
    }
    std::string text = std::to_string(ahead) + " cells fit and are not measured, " + std::to_string(skipped) +
                       " skipped, " + std::to_string(there) + " measured before";
    if (ahead > 0) text += "; measuring takes about " + to_string(Microseconds{seconds * 1e6});
    say(text);
  }

  bool measure_all() {
    for (size_t i = 0; i < study_.cells.size(); ++i) {
      if (results_.cells[i].state != CellState::planned) continue;
      if (stop_.signal() != 0 || !measure_cell(i)) return false;
      write_tables();
    }
    return true;
  }

  bool measure_cell(size_t i) {
    CellResult& result = results_.cells[i];
    const std::optional<Answer> answer =
        ask("profile", study_.cells[i], {"--json", "--steps", std::to_string(study_.steps)});
    if (!answer) return false;
    if (answer->code == 0 && is_json(answer->output)) {
      result.state = CellState::measured;
      result.profile = answer->output;
      const json summary = json::parse(result.profile).at("summary");
      char text[96];
      std::snprintf(text, sizeof text, "measured: %.0f tokens/s, %.0f%% of bound (%s)",
                    summary.at("tokens_per_second").get<double>(), summary.at("percent_of_bound").get<double>(),
                    summary.at("binding_lane").get<std::string>().c_str());
      say(name_of(i) + text);
    } else {
      result.state = answer->code == kSetupFailed ? CellState::skipped : CellState::failed;
      result.reason = reason_of(answer->code, answer->errors);
      say(name_of(i) + (result.state == CellState::skipped ? "skipped: " : "failed: ") + result.reason);
    }
    store_.save(study_.cells[i], result);
    return true;
  }

  void write(const char* name, const std::string& text) const { replace_file(study_.output_dir / name, text); }
  void write_tables() const {
    folder_.check_in_place();
    write("study.csv", to_csv(study_, results_));
    write("study.md", to_markdown(study_, results_));
    write("study.json", to_json(study_, results_, Details::left_out) + '\n');
  }
  void write_html() const {
    write_report(study_.output_dir / "report.html", to_json(study_, results_, Details::included));
  }

  int stopped() {
    write_tables();
    say("stopped; the same command goes on with the cells that are not measured yet");
    return 128 + stop_.signal();
  }

  const Study& study_;
  const StudyOptions& options_;
  OutputFolder folder_;
  CellStore store_;
  StudyResults results_;
  Console console_{STDOUT_FILENO};
  const StopRequest stop_{StopRequest::Keeps::nothing};
};

}  // namespace

int run_study(const Study& study, const StudyOptions& options) {
  const IgnoredSignals ignored;
  return StudyRun(study, options).run();
}

}  // namespace sluice::train
