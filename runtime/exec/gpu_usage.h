// How much of a GPU is taken, and what it has drawn, by whomever, as `nvidia-smi` sees it: also before this process has
// a context there.
#pragma once

#include <optional>
#include <string>

#include "runtime/core/units.h"

namespace sluice::exec {

// `pci_bus_id`: as cudaDeviceGetPCIBusId gives it. Nothing when the driver's management library (NVML) is not there, as
// in some containers.
std::optional<Bytes> gpu_bytes_used(const std::string& pci_bus_id);
// The board's energy since its driver was loaded; two readings make a measurement. Nothing without that library, or on
// a GPU that does not count it (before Volta).
std::optional<double> gpu_joules(const std::string& pci_bus_id);

}  // namespace sluice::exec
