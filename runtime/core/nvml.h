// GPUs as the driver's management library (NVML) shows them, without a context on any: what is there, how much of it is
// taken, what it draws. The library belongs to the driver: it is opened by name, and its absence is an answer.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/units.h"

namespace sluice {

struct GpuSeen {
  std::string name;  // "NVIDIA GeForce RTX 4090"
  Bytes memory, used;
  int major = 0, minor = 0;                 // compute capability; 0: not told
  int link_generation = 0, link_lanes = 0;  // of PCIe as it is plugged in, at its fastest; 0: not told
};

class NvmlLibrary;

// Not thread-safe.
class Nvml {
 public:
  Nvml();
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // Empty: it works. Else why not: no such library, or what it answered.
  const std::string& refused() const { return refused_; }
  std::string driver_version() const;  // "550.54.14"
  std::string cuda_version() const;    // the newest that the driver knows: "12.4"
  std::vector<GpuSeen> gpus() const;
  // Nothing when there is no such GPU, or no NVML.
  std::optional<Bytes> used(const std::string& pci_bus_id) const;
  // What the board has drawn since its driver was loaded: two readings make a measurement. Nothing also on a GPU that
  // does not count it (before Volta).
  std::optional<double> joules(const std::string& pci_bus_id) const;

 private:
  std::unique_ptr<NvmlLibrary> library_;
  std::string refused_;
};

}  // namespace sluice
