#include "runtime/train/study_results.h"

#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "runtime/train/durable_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::array<const char*, 5> kStates = {"open", "planned", "measured", "skipped", "failed"};

std::string settings_text(const StudyCell& cell) {
  std::string text;
  for (const std::string& setting : cell.overrides()) text += setting + '\n';
  return text;
}

ordered_json parsed(const std::string& text) { return text.empty() ? ordered_json() : ordered_json::parse(text); }

// Figures of a cell; null: none.
ordered_json figures_of(const StudyCell& cell, const CellResult& result) {
  ordered_json row;
  for (const auto& [axis, label] : cell.labels) row["settings"][axis] = label;
  row["status"] = kStates[static_cast<size_t>(result.state)];
  for (const char* name :
       {"tokens_per_second", "planned_tokens_per_second", "bound_tokens_per_second", "percent_of_bound", "binding_lane",
        "step_seconds", "seconds_per_10k_tokens", "device_peak_bytes", "host_peak_bytes", "disk_read_bytes",
        "disk_write_bytes", "gpu_joules_per_token", "cpu_joules_per_token"})
    row[name] = nullptr;
  if (const ordered_json plan = parsed(result.plan); !plan.is_null()) {
    const ordered_json& forecast = plan.at("forecast");
    const double tokens_per_second = forecast.at("tokens_per_second");
    row["planned_tokens_per_second"] = tokens_per_second;
    row["bound_tokens_per_second"] =
        tokens_per_second * forecast.at("step_seconds").get<double>() / forecast.at("bound_seconds").get<double>();
    row["binding_lane"] = forecast.at("binding_lane");
    row["percent_of_bound"] = forecast.at("percent_of_bound");
    row["device_peak_bytes"] = plan.at("peak_bytes").at("device").at("total");
    row["host_peak_bytes"] = plan.at("peak_bytes").at("host").at("total");
    row["disk_read_bytes"] = forecast.at("disk_read_bytes");
    row["disk_write_bytes"] = forecast.at("disk_write_bytes");
  }
  if (const ordered_json profile = parsed(result.profile); !profile.is_null()) {
    const ordered_json& summary = profile.at("summary");
    for (const char* name : {"tokens_per_second", "step_seconds", "seconds_per_10k_tokens", "percent_of_bound",
                             "binding_lane", "device_peak_bytes", "host_peak_bytes"})
      row[name] = summary.at(name);
    row["bound_tokens_per_second"] = summary.at("tokens_per_second").get<double>() *
                                     summary.at("step_seconds").get<double>() /
                                     summary.at("bound_seconds").get<double>();
    row["disk_read_bytes"] = profile.at("disk").at("read_bytes_per_step");
    row["disk_write_bytes"] = profile.at("disk").at("write_bytes_per_step");
    row["gpu_joules_per_token"] = profile.at("energy").at("gpu").at("joules_per_token");
    row["cpu_joules_per_token"] = profile.at("energy").at("cpu").at("joules_per_token");
  }
  row["reason"] = result.reason;
  return row;
}

std::vector<ordered_json> rows_of(const Study& study, const StudyResults& results) {
  std::vector<ordered_json> rows;
  for (size_t i = 0; i < study.cells.size(); ++i) rows.push_back(figures_of(study.cells[i], results.cells[i]));
  return rows;
}

bool is_meant(const PublishedFigure& figure, const StudyCell& cell) {
  return std::all_of(figure.where.begin(), figure.where.end(), [&](const auto& where) {
    return std::find(cell.labels.begin(), cell.labels.end(), std::pair(where.first, where.second)) != cell.labels.end();
  });
}

std::string range_of(std::vector<double> values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  char text[96];
  if (values.size() == 1)
    std::snprintf(text, sizeof text, "%.0f tokens/s", *least);
  else
    std::snprintf(text, sizeof text, "%.0f to %.0f tokens/s in %zu cells", *least, *most, values.size());
  return text;
}

// What we have of the same: measured, and where it is not, that it is not, with what the plan says.
std::string ours_of(const PublishedFigure& figure, const Study& study, const std::vector<ordered_json>& rows) {
  std::vector<double> measured, planned;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!is_meant(figure, study.cells[i])) continue;
    const ordered_json& found = rows[i].at("tokens_per_second");
    const ordered_json& foreseen = rows[i].at("planned_tokens_per_second");
    if (found.is_number()) measured.push_back(found);
    if (foreseen.is_number()) planned.push_back(foreseen);
  }
  std::string text = measured.empty() ? "not measured" : "measured: " + range_of(measured);
  if (!planned.empty()) text += "; planned: " + range_of(planned);
  return text;
}

ordered_json published_json(const Study& study, const std::vector<ordered_json>& rows) {
  ordered_json all = ordered_json::array();
  for (const PublishedFigure& figure : study.published) {
    ordered_json each;
    each["what"] = figure.what;
    each["where"] = figure.where;
    each["tokens_per_second"] = figure.tokens_per_second > 0 ? ordered_json(figure.tokens_per_second) : ordered_json();
    each["words"] = figure.words;
    each["source"] = figure.source;
    each["ours"] = ours_of(figure, study, rows);
    all.push_back(std::move(each));
  }
  return all;
}

std::string words_of(const StudyResults& results) {
  std::array<int, kStates.size()> counts{};
  for (const CellResult& cell : results.cells) ++counts[static_cast<size_t>(cell.state)];
  std::string text;
  for (size_t state : {2, 1, 3, 4, 0})
    if (counts[state] > 0)
      text += (text.empty() ? "" : ", ") + std::to_string(counts[state]) + " " +
              (state == 1 ? "planned and not measured" : kStates[state]);
  text = std::to_string(results.cells.size()) + " cells: " + text + ".";
  if (results.planned_only) text += " Planned for " + results.machine + ": nothing was run there.";
  return text;
}

// A cell of a table as text; nothing for null.
std::string shown(const ordered_json& value, int significant) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  char text[32];
  std::snprintf(text, sizeof text, "%.*g", significant, value.get<double>());
  return text;
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

std::string markdown_field(std::string text) {
  std::string safe;
  for (const char c : text) safe += c == '|' ? "\\|" : c == '\n' ? " " : std::string(1, c);
  return safe;
}

std::string markdown_row(const std::vector<std::string>& fields) {
  std::string line = "|";
  for (const std::string& field : fields) line += ' ' + markdown_field(field) + " |";
  return line + '\n';
}

}  // namespace

CellStore::CellStore(fs::path folder, std::string context)
    : folder_(std::move(folder) / "cells"), context_(std::move(context)) {}

fs::path CellStore::file_of(const StudyCell& cell) const {
  const std::string text = context_ + '\n' + settings_text(cell);
  char name[32];
  std::snprintf(name, sizeof name, "%016llx.json",
                static_cast<unsigned long long>(XXH3_64bits(text.data(), text.size())));
  return folder_ / name;
}

std::string text_of(const fs::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

bool is_json(const std::string& text) { return !json::parse(text, nullptr, false).is_discarded(); }

std::optional<CellResult> CellStore::find(const StudyCell& cell) const {
  const json stored = json::parse(text_of(file_of(cell)), nullptr, false);
  if (!stored.is_object()) return std::nullopt;
  try {
    if (stored.at("settings").get<std::string>() != settings_text(cell)) return std::nullopt;
    const auto state = std::find(kStates.begin(), kStates.end(), stored.at("state").get<std::string>());
    if (state == kStates.end()) return std::nullopt;
    CellResult result{static_cast<CellState>(state - kStates.begin()), stored.at("plan"), stored.at("profile"),
                      stored.at("reason"), stored.at("plan_seconds")};
    const auto is_whole = [](const std::string& text) { return text.empty() || is_json(text); };
    return is_whole(result.plan) && is_whole(result.profile) ? std::optional(std::move(result)) : std::nullopt;
  } catch (const json::exception&) {
    return std::nullopt;  // something else has been in the file: the cell is run again
  }
}

void CellStore::save(const StudyCell& cell, const CellResult& result) const {
  const ordered_json stored = {{"cell", cell.name()},
                               {"settings", settings_text(cell)},
                               {"state", kStates[static_cast<size_t>(result.state)]},
                               {"reason", result.reason},
                               {"plan_seconds", result.plan_seconds},
                               {"plan", result.plan},
                               {"profile", result.profile}};
  make_folders(folder_);
  replace_file(file_of(cell), stored.dump(-1, ' ', false, json::error_handler_t::replace));
}

std::string to_json(const Study& study, const StudyResults& results, Details details) {
  const std::vector<ordered_json> rows = rows_of(study, results);
  ordered_json whole;
  whole["kind"] = "study";
  whole["title"] = study.title;
  whole["file"] = study.file.string();
  whole["machine"] = results.machine;
  whole["words"] = words_of(results);
  whole["cells"] = rows;
  for (size_t i = 0; i < rows.size() && details == Details::included; ++i) {
    if (!results.cells[i].plan.empty()) whole["cells"][i]["plan"] = parsed(results.cells[i].plan);
    if (!results.cells[i].profile.empty()) whole["cells"][i]["profile"] = parsed(results.cells[i].profile);
  }
  whole["published"] = published_json(study, rows);
  return whole.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string to_csv(const Study& study, const StudyResults& results) {
  std::string text;
  for (const ordered_json& row : rows_of(study, results)) {
    std::vector<std::string> names, fields;
    for (const auto& [axis, label] : row.at("settings").items()) {
      names.push_back(axis);
      fields.push_back(label);
    }
    for (const auto& [name, value] : row.items()) {
      if (name == "settings") continue;
      names.push_back(name);
      fields.push_back(shown(value, 10));
    }
    const auto add = [&](const std::vector<std::string>& line) {
      for (size_t i = 0; i < line.size(); ++i) text += (i == 0 ? "" : ",") + csv_field(line[i]);
      text += '\n';
    };
    if (text.empty()) add(names);
    add(fields);
  }
  return text;
}

std::string to_markdown(const Study& study, const StudyResults& results) {
  const std::vector<ordered_json> rows = rows_of(study, results);
  std::string text = "# " + study.title + "\n\n" + words_of(results) + " Machine: " + results.machine + ".\n\n";
  std::vector<std::string> head;
  for (const auto& [axis, label] : study.cells.front().labels) head.push_back(axis);
  for (const char* name :
       {"state", "tokens/s", "planned", "bound", "% of bound", "binds", "s per 10k tokens", "GPU J/token", "reason"})
    head.emplace_back(name);
  text += markdown_row(head) + markdown_row(std::vector<std::string>(head.size(), "---"));
  for (const ordered_json& row : rows) {
    std::vector<std::string> fields;
    for (const auto& [axis, label] : row.at("settings").items()) fields.push_back(label);
    const bool measured = row.at("status") == "measured";
    fields.push_back(row.at("status"));
    fields.push_back(measured ? shown(row.at("tokens_per_second"), 4) : "not measured");
    for (const char* name : {"planned_tokens_per_second", "bound_tokens_per_second", "percent_of_bound", "binding_lane",
                             "seconds_per_10k_tokens", "gpu_joules_per_token", "reason"})
      fields.push_back(shown(row.at(name), 4));
    text += markdown_row(fields);
  }
  if (study.published.empty()) return text;
  text += "\n## Published figures beside ours\n\n" + markdown_row({"what", "published", "ours", "source"}) +
          markdown_row(std::vector<std::string>(4, "---"));
  for (const ordered_json& figure : published_json(study, rows))
    text +=
        markdown_row({figure.at("what"),
                      figure.at("tokens_per_second").is_null() ? figure.at("words").get<std::string>()
                                                               : shown(figure.at("tokens_per_second"), 4) + " tokens/s",
                      figure.at("ours"), figure.at("source")});
  return text;
}

}  // namespace sluice::train
