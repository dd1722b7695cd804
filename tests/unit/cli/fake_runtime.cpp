// Stands in for libsluice_runtime.so beside a copy of the binary: says what it was asked, or fails as told by the job's
// output_dir or the prompt. The real library needs LibTorch and a model.
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
}

int train(const Config& config, const TrainOptions& options) {
  fail_as_told(config.output_dir.filename());
  std::printf("train seed=%llu dry_run=%d trace=%s quiet=%d\n", static_cast<unsigned long long>(config.seed),
              options.dry_run, options.trace.c_str(), options.quiet);
  return 0;
}

int plan(const Config& config, const PlanOptions& options) {
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
