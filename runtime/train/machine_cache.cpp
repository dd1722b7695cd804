#include "runtime/train/machine_cache.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <optional>

#include "runtime/core/live_line.h"
#include "runtime/core/result.h"
#include "runtime/exec/machine_probe.h"
#include "runtime/train/cache_folder.h"
#include "runtime/train/drive_endurance.h"
#include "runtime/train/gpu_library.h"
#include "runtime/train/job_measurements.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/machine_summary.h"

namespace sluice::train {
namespace {

using exec::ProbeLength;
using Paths = std::vector<std::filesystem::path>;

constexpr double kDaysMax = 30;
// Of the file and of what is measured: other figures from then on.
constexpr int kProbeVersion = 1;

class Host {
 public:
  // Looks at the drives; throws SetupError when one cannot be measured.
  Host(exec::Gpu* gpu, const Paths& nvme_paths, ProbeLength length) : gpu_(gpu), paths_(nvme_paths), length_(length) {
    SLUICE_CHECK(!nvme_paths.empty(), "at least one nvme_path");
    for (const std::filesystem::path& path : paths_) kinds_.push_back(exec::inspect_drive_for_probe(path, length));
    fingerprint_ = short_hash(identity());
    file_ = cache_folder() / ("machine-" + fingerprint_ + (length == ProbeLength::quick ? "-quick" : "") + ".yaml");
  }

  const std::filesystem::path& file() const { return file_; }

  std::vector<std::string> remarks() const {
    std::vector<std::string> all;
    for (size_t i = 0; i < paths_.size(); ++i) {
      for (std::string& line : swap::remarks(paths_[i], kinds_[i])) all.push_back(std::move(line));
      for (size_t j = 0; j < i; ++j)
        if (kinds_[j].device == kinds_[i].device)
          all.push_back(paths_[i].string() + " and " + paths_[j].string() +
                        " are on one drive: no faster than one of them");
    }
    return all;
  }

  // Nothing: none there, unreadable, too old.
  std::optional<plan::Machine> cached() const {
    if (!std::filesystem::exists(file_)) return std::nullopt;
    try {
      plan::Machine machine = read_machine(file_);
      const std::optional<double> days = days_since(machine.measured);
      if (machine.drives.size() != paths_.size() || !days || *days > kDaysMax) return std::nullopt;
      for (size_t i = 0; i < paths_.size(); ++i) machine.drives[i].path = absolute(paths_[i]);
      return machine;
    } catch (const SetupError&) {
      return std::nullopt;
    }
  }

  plan::Machine measure() const {
    exec::MachineProbeOptions options;
    options.nvme_paths = paths_;
    options.length = length_;
    options.gpu = gpu_;
    LiveLine live(STDERR_FILENO);
    options.progress = [&](std::string_view part) {
      live.draw(
          [&](int columns) { return ("measuring: " + std::string(part)).substr(0, static_cast<size_t>(columns)); });
    };
    plan::Machine machine = exec::probe_machine(options);
    live.clear();
    for (size_t i = 0; i < paths_.size(); ++i)
      machine.drives[i].rated_tbw = rated_terabytes(kinds_[i].models).value_or(0);
    machine.fingerprint = fingerprint_;
    machine.measured = time_text(std::time(nullptr));
    return machine;
  }

  // Before a minute is spent on it.
  void check_cache_is_writable() const {
    std::error_code failed;
    std::filesystem::create_directories(file_.parent_path(), failed);
    if (failed || access(file_.parent_path().c_str(), W_OK) != 0)
      throw SetupError("cannot write to " + file_.parent_path().string(), kCacheFix);
  }
  static constexpr const char* kCacheFix = "set XDG_CACHE_HOME to a folder that you may write to";

 private:
  static std::string absolute(const std::filesystem::path& path) {
    return std::filesystem::absolute(path).lexically_normal().string();
  }

  std::string identity() const {
    std::string text = std::to_string(kProbeVersion) + "\n" + host_identity();
    if (gpu_) text += gpu_->name() + " " + std::to_string(gpu_->memory().total.count) + "\n";
    for (const swap::DriveKind& kind : kinds_)
      text += kind.device + " " + std::to_string(kind.size.count) + " " + kind.file_system + "\n";
    return text;
  }

  exec::Gpu* const gpu_;
  const Paths& paths_;
  ProbeLength length_;
  std::vector<swap::DriveKind> kinds_;
  std::string fingerprint_;
  std::filesystem::path file_;
};

// What a user wrote into a file is not lost when it is written anew: nobody measures what a drive is rated for, and few
// models are known by name.
void keep_ratings(plan::Machine& machine, const std::filesystem::path& out) {
  if (!std::filesystem::exists(out)) return;
  try {
    const plan::Machine before = read_machine(out);
    for (plan::Drive& drive : machine.drives)
      for (const plan::Drive& old : before.drives)
        if (old.path == drive.path && old.rated_tbw > 0) drive.rated_tbw = old.rated_tbw;
  } catch (const SetupError&) {  // not a machine file: it is replaced
  }
}

void check_out(const std::filesystem::path& out) {
  const std::filesystem::path folder = out.has_parent_path() ? out.parent_path() : ".";
  if (access(folder.c_str(), W_OK) != 0 || std::filesystem::is_directory(out))
    throw SetupError("cannot write " + out.string(),
                     "give --out a file in a folder that exists and that you may write to");
}

}  // namespace

int run_probe(const ProbeOptions& options) {
  check_out(options.out);
  const std::unique_ptr<exec::Gpu> gpu = gpu_for(options.device, "sluice probe");
  const Host host(gpu.get(), options.nvme_paths, options.quick ? ProbeLength::quick : ProbeLength::full);
  host.check_cache_is_writable();
  for (const std::string& line : host.remarks()) std::fprintf(stderr, "note: %s\n", line.c_str());
  std::optional<plan::Machine> machine;
  if (!options.force) machine = host.cached();
  const bool cached = machine.has_value();
  if (!cached) {
    forget_measurements();
    const auto begin = std::chrono::steady_clock::now();
    machine = host.measure();
    write_machine(*machine, host.file());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("%s", machine_summary(*machine).c_str());
    std::printf("measured in %.0f s, kept in %s\n", seconds, host.file().c_str());
  } else {
    std::printf("%s", machine_summary(*machine).c_str());
    std::printf("measured before, at %s: read from %s (--force measures again)\n", machine->measured.c_str(),
                host.file().c_str());
  }
  keep_ratings(*machine, options.out);
  write_machine(*machine, options.out);
  std::printf("written to %s\n", options.out.c_str());
  return 0;
}

}  // namespace sluice::train
