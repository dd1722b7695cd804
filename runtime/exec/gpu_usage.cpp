#include "runtime/exec/gpu_usage.h"

#include <dlfcn.h>

#include <cstdint>

namespace sluice::exec {
namespace {

// The few of NVML's functions that are needed, as its binary interface has had them since version 2. Opened by name: it
// belongs to the driver, and neither the machine that builds nor its toolkit need have it.
struct NvmlMemory {
  unsigned long long total, free, used;
};
using NvmlDevice = struct NvmlDeviceHandle*;
constexpr int kNvmlSuccess = 0;

class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    find(init_, "nvmlInit_v2");
    find(shutdown_, "nvmlShutdown");
    find(handle_, "nvmlDeviceGetHandleByPciBusId_v2");
    find(memory_, "nvmlDeviceGetMemoryInfo");
    find(energy_, "nvmlDeviceGetTotalEnergyConsumption");
    works_ = init_ && shutdown_ && handle_ && memory_ && init_() == kNvmlSuccess;
  }
  ~Nvml() {
    if (works_) shutdown_();
    if (library_ != nullptr) dlclose(library_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::optional<Bytes> used(const std::string& pci_bus_id) const {
    NvmlDevice device = nullptr;
    NvmlMemory memory{};
    if (!works_ || handle_(pci_bus_id.c_str(), &device) != kNvmlSuccess || memory_(device, &memory) != kNvmlSuccess)
      return std::nullopt;
    return Bytes{static_cast<int64_t>(memory.used)};
  }
  std::optional<double> joules(const std::string& pci_bus_id) const {
    NvmlDevice device = nullptr;
    unsigned long long millijoules = 0;
    if (!works_ || energy_ == nullptr || handle_(pci_bus_id.c_str(), &device) != kNvmlSuccess ||
        energy_(device, &millijoules) != kNvmlSuccess)
      return std::nullopt;
    return static_cast<double>(millijoules) / 1e3;
  }

 private:
  template <class Function>
  void find(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library_, name));
  }

  void* library_;
  bool works_ = false;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*handle_)(const char* pci_bus_id, NvmlDevice* device) = nullptr;
  int (*memory_)(NvmlDevice device, NvmlMemory* memory) = nullptr;
  int (*energy_)(NvmlDevice device, unsigned long long* millijoules) = nullptr;
};

}  // namespace

std::optional<Bytes> gpu_bytes_used(const std::string& pci_bus_id) { return Nvml().used(pci_bus_id); }
std::optional<double> gpu_joules(const std::string& pci_bus_id) { return Nvml().joules(pci_bus_id); }

}  // namespace sluice::exec
