#include "runtime/core/nvml.h"

#include <dlfcn.h>

#include <array>

namespace sluice {
namespace {

// The few of NVML's functions that are needed, as its binary interface has had them since version 2. Neither the
// machine that builds nor its toolkit need have its header.
struct NvmlMemory {
  unsigned long long total, free, used;
};
using NvmlDevice = struct NvmlDeviceHandle*;
constexpr int kNvmlSuccess = 0;

}  // namespace

class NvmlLibrary {
 public:
  NvmlLibrary() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) {
      refused_ = dlerror();
      return;
    }
    find(init_, "nvmlInit_v2");
    find(shutdown_, "nvmlShutdown");
    find(handle_, "nvmlDeviceGetHandleByPciBusId_v2");
    find(memory_, "nvmlDeviceGetMemoryInfo");
    find(count, "nvmlDeviceGetCount_v2");
    find(by_index, "nvmlDeviceGetHandleByIndex_v2");
    find(name, "nvmlDeviceGetName");
    find(capability, "nvmlDeviceGetCudaComputeCapability");
    find(link_generation, "nvmlDeviceGetMaxPcieLinkGeneration");
    find(link_lanes, "nvmlDeviceGetMaxPcieLinkWidth");
    find(energy, "nvmlDeviceGetTotalEnergyConsumption");
    find(driver_version, "nvmlSystemGetDriverVersion");
    find(cuda_version, "nvmlSystemGetCudaDriverVersion_v2");
    if (!init_ || !shutdown_ || !handle_ || !memory_) {
      refused_ = "libnvidia-ml.so.1 lacks functions that it has had for ten years";
    } else if (const int status = init_(); status != kNvmlSuccess) {
      refused_ = "libnvidia-ml.so.1 does not start: " + text_of(status);
    } else {
      works_ = true;
    }
  }
  ~NvmlLibrary() {
    if (works_) shutdown_();
    if (library_ != nullptr) dlclose(library_);
  }
  NvmlLibrary(const NvmlLibrary&) = delete;
  NvmlLibrary& operator=(const NvmlLibrary&) = delete;

  const std::string& refused() const { return refused_; }
  bool works() const { return works_; }

  NvmlDevice device_at(const std::string& pci_bus_id) const {
    NvmlDevice device = nullptr;
    return works_ && handle_(pci_bus_id.c_str(), &device) == kNvmlSuccess ? device : nullptr;
  }
  std::optional<NvmlMemory> memory_of(NvmlDevice device) const {
    NvmlMemory memory{};
    if (device == nullptr || memory_(device, &memory) != kNvmlSuccess) return std::nullopt;
    return memory;
  }

  // Null where the driver does not have them.
  int (*count)(unsigned* count) = nullptr;
  int (*by_index)(unsigned index, NvmlDevice* device) = nullptr;
  int (*name)(NvmlDevice device, char* name, unsigned length) = nullptr;
  int (*capability)(NvmlDevice device, int* major, int* minor) = nullptr;
  int (*link_generation)(NvmlDevice device, unsigned* generation) = nullptr;
  int (*link_lanes)(NvmlDevice device, unsigned* lanes) = nullptr;
  int (*energy)(NvmlDevice device, unsigned long long* millijoules) = nullptr;
  int (*driver_version)(char* version, unsigned length) = nullptr;
  int (*cuda_version)(int* version) = nullptr;

 private:
  template <class Function>
  void find(Function*& function, const char* symbol) {
    function = reinterpret_cast<Function*>(dlsym(library_, symbol));
  }
  std::string text_of(int status) {
    const char* (*text)(int status) = nullptr;
    find(text, "nvmlErrorString");
    return text != nullptr ? text(status) : "error " + std::to_string(status);
  }

  void* library_;
  std::string refused_;
  bool works_ = false;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*handle_)(const char* pci_bus_id, NvmlDevice* device) = nullptr;
  int (*memory_)(NvmlDevice device, NvmlMemory* memory) = nullptr;
};

Nvml::Nvml() : library_(std::make_unique<NvmlLibrary>()), refused_(library_->refused()) {}
Nvml::~Nvml() = default;

std::string Nvml::driver_version() const {
  std::array<char, 96> text{};
  const bool known = library_->works() && library_->driver_version &&
                     library_->driver_version(text.data(), text.size()) == kNvmlSuccess;
  return known ? text.data() : "";
}

std::string Nvml::cuda_version() const {
  int version = 0;  // 12040
  const bool known = library_->works() && library_->cuda_version && library_->cuda_version(&version) == kNvmlSuccess;
  return known ? std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10) : "";
}

std::vector<GpuSeen> Nvml::gpus() const {
  std::vector<GpuSeen> seen;
  unsigned count = 0;
  const NvmlLibrary& library = *library_;
  if (!library.works() || !library.count || !library.by_index || library.count(&count) != kNvmlSuccess) return seen;
  for (unsigned index = 0; index < count; ++index) {
    NvmlDevice device = nullptr;
    if (library.by_index(index, &device) != kNvmlSuccess) continue;
    GpuSeen gpu;
    std::array<char, 96> name{};
    if (library.name && library.name(device, name.data(), name.size()) == kNvmlSuccess) gpu.name = name.data();
    if (const auto memory = library.memory_of(device)) {
      gpu.memory = Bytes{static_cast<int64_t>(memory->total)};
      gpu.used = Bytes{static_cast<int64_t>(memory->used)};
    }
    if (library.capability) (void)library.capability(device, &gpu.major, &gpu.minor);
    unsigned generation = 0, lanes = 0;
    if (library.link_generation) (void)library.link_generation(device, &generation);
    if (library.link_lanes) (void)library.link_lanes(device, &lanes);
    gpu.link_generation = static_cast<int>(generation);
    gpu.link_lanes = static_cast<int>(lanes);
    seen.push_back(std::move(gpu));
  }
  return seen;
}

std::optional<double> Nvml::joules(const std::string& pci_bus_id) const {
  const NvmlDevice device = library_->device_at(pci_bus_id);
  unsigned long long millijoules = 0;
  if (device == nullptr || !library_->energy || library_->energy(device, &millijoules) != kNvmlSuccess)
    return std::nullopt;
  return static_cast<double>(millijoules) / 1e3;
}

std::optional<Bytes> Nvml::used(const std::string& pci_bus_id) const {
  const auto memory = library_->memory_of(library_->device_at(pci_bus_id));
  return memory ? std::optional(Bytes{static_cast<int64_t>(memory->used)}) : std::nullopt;
}

}  // namespace sluice
