#include "runtime/train/job_rates.h"

#include <unistd.h>

#include <algorithm>

#include "runtime/exec/rate_probe.h"
#include "runtime/train/free_memory.h"
#include "runtime/train/machine_file.h"
#include "runtime/train/swap_folders.h"
#include "swap/host_slab.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// Folders on the drives that the job will use, gone with this.
class ProbeFolders {
 public:
  explicit ProbeFolders(const std::vector<fs::path>& nvme_paths) {
    for (const fs::path& path : nvme_paths)
      folders_.push_back(nearest_existing(path) /
                         (".sluice-probe-" + std::to_string(getpid()) + '-' + std::to_string(folders_.size())));
  }
  ~ProbeFolders() {
    std::error_code ignored;
    for (const fs::path& folder : folders_) fs::remove_all(folder, ignored);
  }
  ProbeFolders(const ProbeFolders&) = delete;
  ProbeFolders& operator=(const ProbeFolders&) = delete;
  const std::vector<fs::path>& paths() const { return folders_; }

 private:
  std::vector<fs::path> folders_;
};

Bytes trained_and_frozen(const plan::JobShape& shape) {
  Bytes sum;
  for (const plan::GroupShape& group : shape.groups) {
    sum += group.weight_bytes();
    if (group.trainable) sum += group.state_bytes() + Bytes{group.elements * shape.gradient_bytes_per_element};
  }
  return sum;
}

plan::MachineProfile probed(const Job& job, exec::RateProbeOptions options) {
  swap::HostSlab memory(probe_memory(job));
  options.memory = memory.memory();
  if (!plan::needs_disk(job.shape, job.request)) return exec::probe_rates(nullptr, options);
  const ProbeFolders folders(job.config.offload.nvme_path);
  swap::SwapOptions drives = swap_options(job.config);
  drives.nvme_paths = folders.paths();
  swap::SwapEngine swap(drives);
  return exec::probe_rates(&swap, options);
}

}  // namespace

exec::UpdateKind update_kind(const Job& job) {
  return {
      StateLayout(job.config.offload.optimizer_state, job.setup.model.compute_dtype, {}, {}, job.config.update_rule),
      pass_size(job.setup, job.batch).gradient_dtype};
}

Bytes probe_memory(const Job& job) {
  const Bytes left = job.request.caps[static_cast<size_t>(Tier::host)] - resident_bytes() - job.shape.transient_bytes;
  const Bytes wanted = std::min({left, trained_and_frozen(job.shape), exec::kRateProbeBytes});
  return {round_down(std::max(wanted, exec::kRateProbeBytesLeast).count, MiB(1).count)};
}

plan::MachineProfile measure_rates(const Job& job) {
  exec::RateProbeOptions options;
  options.update = update_kind(job);
  // A GPU takes nothing from the other lanes. On the CPU: takes its memory at once.
  if (!job.gpu) options.compute_load = exec::layer_load(job.setup.model, pass_size(job.setup, job.batch));
  if (job.config.device == DeviceKind::emulated) options.link_each_way = emulated_link(job.config);
  return probed(job, std::move(options));
}

plan::MachineProfile measure_rates_without_compute(const Job& job) {
  exec::RateProbeOptions options;
  options.update = update_kind(job);
  if (job.request.memory == plan::DeviceMemory::separate) options.link_each_way = link_to_rehearse(job);
  return probed(job, std::move(options));
}

BytesPerSecond link_to_rehearse(const Job& job) {
  if (job.target) return std::min(job.target->h2d, job.target->d2h);
  return job.gpu ? std::min(job.request.profile.h2d, job.request.profile.d2h) : emulated_link(job.config);
}

BytesPerSecond emulated_link(const Config& config) {
  if (config.offload.emulate.empty()) return {20e9};
  const plan::Machine machine = read_machine(config.offload.emulate);
  return std::min(machine.h2d, machine.d2h);
}

}  // namespace sluice::train
