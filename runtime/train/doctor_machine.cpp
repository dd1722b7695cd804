#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "optim/adamw.h"
#include "runtime/core/nvml.h"
#include "runtime/core/processor.h"
#include "runtime/core/result.h"
#include "runtime/train/doctor_checks.h"
#include "runtime/train/free_memory.h"
#include "runtime/train/open_files.h"
#include "runtime/train/text_process.h"
#include "swap/host_slab.h"
#include "swap/io_backend.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// What is pinned to see whether it may be.
constexpr Bytes kPinnedTrial = MiB(64);
constexpr int kOldestMajor = 8;  // of GPUs that kernels are compiled for: Ampere

bool in_container() {
  std::error_code failed;
  return fs::exists("/.dockerenv", failed) || fs::exists("/run/.containerenv", failed);
}

// Of `ulimit`, for good.
std::string raise_limit(const std::string& docker_name, const std::string& limits_name, const std::string& ulimit_flag,
                        const std::string& value, bool hard_allows) {
  if (hard_allows) return "ulimit " + ulimit_flag + " " + value;
  if (in_container())
    return "docker run --ulimit " + docker_name + "=" + (value == "unlimited" ? "-1" : value) + " ...";
  return "echo \"$USER - " + limits_name + " " + value +
         "\" | sudo tee -a /etc/security/limits.d/sluice.conf   # then log in again";
}

Finding processor() {
  const int cores = usable_cores();
  std::string found = processor_name() + ", " + std::to_string(cores) + (cores == 1 ? " core, " : " cores, ");
  const optim::Isa isa = optim::best_isa();
  Finding finding{"processor", "", Verdict::good, found + std::string(optim::name_of(isa)), "", ""};
  if (isa != optim::Isa::scalar) return finding;
  finding.verdict = Verdict::limited;
  finding.costs = "no AVX2: the optimizer's update is several times slower";
  return finding;
}

Finding memory(const Config* job) {
  const Bytes total{sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE)}, free = free_memory();
  Finding finding{"memory", "", Verdict::good, to_string(total) + ", " + to_string(free) + " free for a job", "", ""};
  const std::optional<Bytes> limit = memory_limit();
  finding.found += limit ? "; cgroup limit " + to_string(*limit) : "; no cgroup limit";
  const std::optional<Bytes> wanted = job ? job->offload.max_cpu : std::nullopt;
  if (!wanted || *wanted <= free) return finding;
  finding.verdict = Verdict::limited;
  finding.costs = "offload.max_cpu is " + to_string(*wanted) + ": a plan that uses it all is killed by the kernel";
  finding.fix = "offload.max_cpu=" + std::to_string(free.count / GiB(1).count) + "GiB";
  return finding;
}

std::string text_of(const GpuSeen& gpu) {
  std::string text = gpu.name + ", " + to_string(gpu.memory) + ", " + to_string(gpu.used) + " taken";
  if (gpu.major > 0) text += ", compute capability " + std::to_string(gpu.major) + "." + std::to_string(gpu.minor);
  if (gpu.link_lanes > 0)
    text += ", PCIe " + std::to_string(gpu.link_generation) + " x" + std::to_string(gpu.link_lanes);
  return text;
}

// Through the driver first, which answers at once; then, where one is there, as a job opens it.
std::vector<Finding> gpu(const DoctorOptions& options) {
  const Nvml nvml;
  const std::vector<GpuSeen> seen = nvml.gpus();
  const bool asked = options.job && options.job->device == DeviceKind::cuda;
  Finding finding{"gpu", "", Verdict::good, "none found: the processor computes", "", ""};
  std::error_code failed;
  const bool has_card = fs::exists("/dev/nvidiactl", failed) || fs::exists("/dev/dxg", failed);
  if (seen.empty() && !asked) {
    if (!has_card) return {finding};
    finding.verdict = Verdict::limited;
    finding.found = "the driver's device files are there, and no GPU answers: " +
                    (nvml.refused().empty() ? "the driver lists none" : nvml.refused());
    finding.costs = "the processor computes";
    finding.fix = "nvidia-smi   # the driver says what is wrong";
    return {finding};
  }
  finding.found.clear();
  for (const GpuSeen& each : seen) finding.found += (finding.found.empty() ? "" : "; ") + text_of(each);
  if (seen.empty()) finding.found = "none found, and the job's device is cuda";
  try {
    if (!(options.job && options.job->device == DeviceKind::cpu)) (void)options.open_gpu();
  } catch (const SluiceException& error) {
    finding.verdict = asked ? Verdict::missing : Verdict::limited;
    finding.costs = error.error().message;
    finding.fix = seen.empty() ? "device=cpu" : error.error().hint;
  }
  if (!seen.empty() && seen.front().major > 0 && seen.front().major < kOldestMajor) {
    finding.verdict = asked ? Verdict::missing : Verdict::limited;
    finding.costs = "kernels are compiled for compute capability 8.0 and later";
    finding.fix = "device=cpu";
  }
  std::vector<Finding> findings{finding};
  if (!seen.empty())
    findings.push_back(
        {"driver", "", Verdict::good,
         nvml.driver_version() + (nvml.cuda_version().empty() ? "" : ", CUDA " + nvml.cuda_version() + " at most"), "",
         ""});
  return findings;
}

std::string ring_fix() {
  std::ifstream file("/proc/sys/kernel/io_uring_disabled");
  int disabled = 0;
  if (file >> disabled && disabled > 0) return "sudo sysctl kernel.io_uring_disabled=0";
  return in_container() ? "docker run --security-opt seccomp=unconfined ..."
                        : "offload.io_backend=thread   # what a job falls back to";
}

// CAP_IPC_LOCK: whom the limit does not hold.
bool may_lock_all() {
  constexpr int kIpcLock = 14;
  std::ifstream status("/proc/self/status");
  for (std::string name, value; status >> name >> value;)
    if (name == "CapEff:") return (std::stoull(value, nullptr, 16) >> kIpcLock & 1) != 0;
  return false;
}

// A ring as a job has it, and memory registered with it.
std::vector<Finding> ring_and_locked_memory(const Config* job) {
  Result<std::unique_ptr<swap::IoBackend>> ring = swap::make_uring_backend(32);
  const bool asked = job && job->offload.io_backend == "uring", unused = job && job->offload.io_backend == "thread";
  Finding uring{"io_uring", "", Verdict::good, "a ring of 32 requests was set up", "", ""};
  struct rlimit limit {};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  const bool unlimited = limit.rlim_cur == RLIM_INFINITY || may_lock_all();
  Finding memlock{"memlock", "", Verdict::good, "", "", ""};
  memlock.found = limit.rlim_cur == RLIM_INFINITY ? "unlimited"
                                                  : to_string(Bytes{static_cast<int64_t>(limit.rlim_cur)}) +
                                                        (may_lock_all() ? ", which does not hold this user" : "");
  const std::string raise = raise_limit("memlock", "memlock", "-l", "unlimited", limit.rlim_max == RLIM_INFINITY);
  if (!ring.ok()) {
    uring.verdict = asked ? Verdict::missing : unused ? Verdict::good : Verdict::limited;
    uring.found = ring.error().message;
    uring.costs = unused ? "" : "I/O runs on threads: more of the processor's time for the same bytes";
    uring.fix = ring.error().hint.starts_with("raise") ? raise : ring_fix();
    return {uring, memlock};
  }
  const swap::HostSlab slab(kPinnedTrial);
  const Result<void> pinned = ring.value()->register_memory(slab.memory());
  const Bytes wanted = job && job->offload.max_cpu ? *job->offload.max_cpu : free_memory();
  const bool enough = pinned.ok() && (unlimited || Bytes{static_cast<int64_t>(limit.rlim_cur)} >= wanted);
  if (pinned.ok()) memlock.found += "; " + to_string(kPinnedTrial) + " were registered with the ring";
  if (enough || unused) return {uring, memlock};
  memlock.verdict = Verdict::limited;
  memlock.costs = pinned.ok() ? "a job may want " + to_string(wanted) + ": its buffers are then not registered"
                              : "buffers are not registered with io_uring: the kernel pins them for each request";
  memlock.fix = raise;
  return {uring, memlock};
}

Finding huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  std::getline(file, line);  // "always [madvise] never"
  const size_t begin = line.find('['), end = line.find(']');
  const bool known = begin != std::string::npos && end != std::string::npos;
  const std::string mode = known ? line.substr(begin + 1, end - begin - 1) : "not in this kernel";
  const bool off_here = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1;
  Finding finding{"huge_pages", "", Verdict::good, mode + (off_here ? ", switched off for this process" : ""), "", ""};
  if ((mode == "always" || mode == "madvise") && !off_here) return finding;
  finding.verdict = Verdict::limited;
  finding.costs = "the processor walks page tables for every 4 KiB that it streams";
  if (known && mode == "never") finding.fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled";
  return finding;
}

int64_t tensor_files(const Config& job) {
  int64_t count = 0;
  std::error_code failed;
  for (const fs::path& folder : {job.base_model, job.lora_model_dir})
    for (const auto& entry : fs::directory_iterator(folder, failed))
      count += entry.path().extension() == ".safetensors" ? 1 : 0;
  return count;
}

// The soft limit is raised by a job itself, up to the hard one.
Finding open_files_allowed(const Config* job) {
  const OpenFiles files = open_files();
  const int64_t needed = files.with(job ? 2 * tensor_files(*job) : 0);
  Finding finding{"open_files", "", Verdict::good, "", "", ""};
  finding.found = std::to_string(files.soft) + " (hard limit " + std::to_string(files.hard) + "), " +
                  std::to_string(needed) + " needed";
  if (files.hard >= needed) return finding;
  finding.verdict = Verdict::missing;
  finding.costs = job ? "the model's files cannot all be opened" : "a job cannot open its files";
  finding.fix = raise_limit("nofile", "nofile", "-n", "65536", false);
  return finding;
}

Finding text_side() {
  Finding finding{"text", "", Verdict::good, "", "", ""};
  try {
    finding.found = check_text_side() + ": tokenizers, jinja2 and pyarrow load";
  } catch (const SetupError& error) {
    finding = {"text", "", Verdict::missing, error.error().message, "datasets cannot be prepared", "make setup"};
  }
  return finding;
}

Finding runtime(const DoctorOptions& options) {
  Finding finding{"runtime", "", Verdict::good, "LibTorch and the runtime library load", "", ""};
  try {
    options.load_runtime();
  } catch (const SetupError& error) {
    finding = {"runtime", "", Verdict::missing, error.error().message, "nothing can be computed", "make build"};
  }
  return finding;
}

}  // namespace

std::vector<Finding> examine_machine(const DoctorOptions& options) {
  const Config* job = options.job ? &*options.job : nullptr;
  std::vector<Finding> findings = {processor(), memory(job)};
  const auto add = [&](std::vector<Finding> more) {
    findings.insert(findings.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  add(gpu(options));
  add(ring_and_locked_memory(job));
  add({huge_pages(), open_files_allowed(job), text_side(), runtime(options)});
  return findings;
}

}  // namespace sluice::train
