// Measures what this machine can do, all of runtime/plan/machine.h, in less than a minute.
//
// Compute is asked through ComputeProbe, which the cpu device implements (its memory is DRAM, its copies are memcpy,
// as the emulated device makes them). A GPU would be another implementation; there is none yet.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "models/op_timing.h"
#include "runtime/exec/probe_drives.h"
#include "runtime/plan/machine.h"

namespace sluice::exec {

// The part of a probe that differs from device to device.
class ComputeProbe {
 public:
  virtual ~ComputeProbe() = default;
  virtual std::vector<Dtype> dtypes() const = 0;
  virtual double product_seconds(Dtype dtype, const models::ProductShape& shape, double seconds) = 0;
  virtual models::AttentionSeconds attention_seconds(Dtype dtype, int64_t heads, int64_t head_dim, int64_t length,
                                                     double seconds) = 0;
  virtual BytesPerSecond kernel_rate(double seconds) = 0;
  // Products without end, for what other loads leave of them.
  virtual std::unique_ptr<Load> products(Dtype dtype) = 0;
  // 0: the device's memory is the host's.
  virtual Bytes memory() const = 0;
};

struct MachineProbeOptions {
  std::vector<std::filesystem::path> nvme_paths;  // each passed inspect_drive
  ProbeLength length = ProbeLength::full;
  std::function<void(std::string_view)> progress = [](std::string_view) {};  // what is measured now
};

// "AMD EPYC 9654 96-Core Processor".
std::string processor_name();

// Name, cores, memory and rates; not the fingerprint and the date. Throws SetupError and RunError.
plan::Machine probe_machine(const MachineProbeOptions& options);

}  // namespace sluice::exec
