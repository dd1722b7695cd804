// Stands in for libsluice_runtime.so beside a copy of the binary: says what it was asked, or fails as told by the job's
// output_dir or the prompt; of a study's cell it gives figures, or does as `plan_...` and `profile_...` say. The real
// library needs LibTorch and a model.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <stdexcept>
#include <string>

#include "runtime/core/result.h"
#include "runtime/train/entry.h"

namespace sluice::train {
namespace {

void fail_as_told(const std::string& how) {
  if (how == "setup_error") throw SetupError("the set-up is wrong", "put it right");
  if (how == "run_error") throw RunError({ErrorCode::io, "step 3 failed", "the last checkpoint is intact"});
  if (how == "other_error") throw std::runtime_error("something else");
  if (how == "no_fix") throw SetupError("nothing can be done", "");
  if (how == "killed") std::raise(SIGKILL);
  if (how == "terminated") {
    std::fprintf(stderr, "note: all was well\nsluice: it broke off\n  fix: try again\n");
    std::raise(SIGTERM);
  }
}

// Asks the study to stop, and writes to it so that it notices. It then ends the cell, which one that outlasts it
// ignores.
void stop_the_study(const std::string& how) {
  constexpr unsigned kEndedSooner = 60;
  if (how != "stopping" && how != "outlasting") return;
  if (how == "outlasting") std::signal(SIGTERM, SIG_IGN);
  kill(getppid(), SIGTERM);
  std::fprintf(stderr, "asked it to stop\n");
  if (how == "stopping") sleep(kEndedSooner);
}

// Whether the job is a study's cell: then it does as it is told for this command, and else prints `figures`.
bool played_cell(const Config& config, const std::string& command, const char* figures) {
  const std::string told = config.output_dir.filename(), mine = command + "_";
  if (told != "cell" && !told.starts_with("plan_") && !told.starts_with("profile_")) return false;
  const std::string how = told.starts_with(mine) ? told.substr(mine.size()) : "";
  fail_as_told(how);
  stop_the_study(how);
  if (how == "no_json") std::fprintf(stderr, "half a line\n");
  std::printf("%s\n", how == "no_json" ? "{" : figures);
  return true;
}

int train(const Config& config, const TrainOptions& options) {
  fail_as_told(config.output_dir.filename());
  std::printf("train seed=%llu dry_run=%d trace=%s quiet=%d\n", static_cast<unsigned long long>(config.seed),
              options.dry_run, options.trace.c_str(), options.quiet);
  return 0;
}

int plan(const Config& config, const PlanOptions& options) {
  if (played_cell(config, "plan", R"({"peak_bytes": {"device": {"total": 1}, "host": {"total": 2}},
      "forecast": {"tokens_per_second": 100.0, "step_seconds": 2.0, "bound_seconds": 1.0, "percent_of_bound": 50.0,
                   "binding_lane": "read", "disk_read_bytes": 3, "disk_write_bytes": 4}})"))
    return 0;
  std::printf("plan seed=%llu json=%d\n", static_cast<unsigned long long>(config.seed), options.json);
  return 0;
}

int generate(const GenerateOptions& options) {
  fail_as_told(options.prompt);
  std::printf(
      "generate model=%s adapter=%s prompt=%s raw=%d system=%s max_new_tokens=%lld temperature=%g top_p=%g "
      "top_k=%lld seed=%llu\n",
      options.model.c_str(), options.adapter.c_str(), options.prompt.c_str(), options.raw, options.system.c_str(),
      static_cast<long long>(options.max_new_tokens), options.temperature, options.top_p,
      static_cast<long long>(options.top_k), static_cast<unsigned long long>(options.seed));
  return 0;
}

int merge(const MergeOptions& options) {
  std::printf("merge adapter=%s out=%s model=%s dtype=%s\n", options.adapter.c_str(), options.out.c_str(),
              options.model.c_str(), options.dtype ? std::string(name_of(*options.dtype)).c_str() : "base");
  return 0;
}

int probe(const ProbeOptions& options) {
  std::printf("probe out=%s nvme=", options.out.c_str());
  for (const auto& path : options.nvme_paths) std::printf("%s,", path.c_str());
  std::printf(" force=%d quick=%d device=%d\n", options.force, options.quick, static_cast<int>(options.device));
  return 0;
}

std::string open_gpu() {
  throw SetupError("sluice doctor: device is cuda and no GPU can be used: it is a stand-in", "none");
}

int profile(const Config& config, const ProfileOptions& options) {
  if (played_cell(config, "profile",
                  R"({"summary": {"tokens_per_second": 80.0, "step_seconds": 2.5, "bound_seconds": 2.0,
                  "seconds_per_10k_tokens": 125.0, "percent_of_bound": 80.0, "binding_lane": "compute",
                  "device_peak_bytes": 5, "host_peak_bytes": 6},
      "disk": {"read_bytes_per_step": 7.0, "write_bytes_per_step": 8.0},
      "energy": {"gpu": {"joules_per_token": null}, "cpu": {"joules_per_token": 0.5}}})"))
    return 0;
  std::printf("profile seed=%llu steps=%lld json=%d report=%s trace=%s\n", static_cast<unsigned long long>(config.seed),
              static_cast<long long>(options.steps), options.json, options.report.c_str(), options.trace.c_str());
  return 0;
}

}  // namespace
}  // namespace sluice::train

extern "C" const sluice::train::EntryTable* sluice_runtime_entry() {
  using namespace sluice::train;
  static constexpr EntryTable table = {FAKE_VERSION, sizeof(Config), train,    plan,   generate,
                                       probe,        merge,          open_gpu, profile};
  return &table;
}
