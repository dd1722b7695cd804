#include "runtime/train/doctor.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "runtime/train/doctor_checks.h"
#include "runtime/train/metrics.h"
#include "runtime/train/swap_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr int kCannotRun = 2;

std::string_view name_of(Verdict verdict) {
  return verdict == Verdict::good ? "ok" : verdict == Verdict::limited ? "limited" : "missing";
}

std::vector<fs::path> paths_of(const DoctorOptions& options) {
  std::vector<fs::path> paths = options.nvme_paths;
  if (options.job)
    paths.insert(paths.end(), options.job->offload.nvme_path.begin(), options.job->offload.nvme_path.end());
  if (paths.empty()) paths = {"."};
  if (options.job) paths.push_back(options.job->output_dir);
  std::vector<fs::path> once;
  for (const fs::path& path : paths)
    if (std::find(once.begin(), once.end(), path) == once.end()) once.push_back(path);
  return once;
}

void print_json(const std::vector<Finding>& findings, bool can_run) {
  nlohmann::ordered_json json;
  json["can_run"] = can_run;
  json["findings"] = nlohmann::ordered_json::array();
  for (const Finding& each : findings) {
    nlohmann::ordered_json one = {{"check", each.check}, {"verdict", name_of(each.verdict)}, {"found", each.found}};
    if (!each.path.empty()) one["path"] = each.path;
    if (!each.costs.empty()) one["costs"] = each.costs;
    if (!each.fix.empty()) one["fix"] = each.fix;
    json["findings"].push_back(std::move(one));
  }
  std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void print_finding(const Finding& each, bool colour) {
  const char* paint = each.verdict == Verdict::good      ? "\033[32m"
                      : each.verdict == Verdict::limited ? "\033[33m"
                                                         : "\033[31m";
  const std::string verdict(name_of(each.verdict));
  std::printf("%s%-8s%s %-11s %s\n", colour ? paint : "", verdict.c_str(), colour ? "\033[0m" : "", each.check.c_str(),
              each.found.c_str());
  if (!each.costs.empty()) std::printf("%20s %s\n", "", each.costs.c_str());
  if (!each.fix.empty()) std::printf("%20s fix: %s\n", "", each.fix.c_str());
}

void print_text(const std::vector<Finding>& findings, bool can_run) {
  const bool colour = wants_colour(STDOUT_FILENO);
  std::string path;
  for (const Finding& each : findings) {
    if (each.path != path) std::printf("\n%s\n", each.path.c_str());
    path = each.path;
    print_finding(each, colour);
  }
  const auto count = [&](Verdict verdict) {
    return std::count_if(findings.begin(), findings.end(),
                         [&](const Finding& each) { return each.verdict == verdict; });
  };
  std::printf("\n%s", can_run ? "a job can run here" : "a job cannot run here");
  if (const auto missing = count(Verdict::missing)) std::printf("; missing: %lld", static_cast<long long>(missing));
  if (const auto limited = count(Verdict::limited)) std::printf("; limited: %lld", static_cast<long long>(limited));
  std::printf("%s\n", can_run ? ". What it takes of this: `sluice plan JOB.yaml`" : "");
}

}  // namespace

int run_doctor(const DoctorOptions& options) {
  if (options.job) check_nvme_paths(*options.job);
  std::vector<Finding> findings = examine_machine(options);
  for (const fs::path& path : paths_of(options))
    for (Finding& finding : examine_path(path, options.job ? &*options.job : nullptr))
      findings.push_back(std::move(finding));
  const bool can_run = std::none_of(findings.begin(), findings.end(),
                                    [](const Finding& each) { return each.verdict == Verdict::missing; });
  options.json ? print_json(findings, can_run) : print_text(findings, can_run);
  return can_run ? 0 : kCannotRun;
}

}  // namespace sluice::train
