// What a job needs of a GPU, whoever makes it: its memory, the arithmetic of block programs, an executor's device, and
// how long a pass takes. CUDA stays behind it, in a library of its own that is opened when a job asks for a GPU.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "models/ops/ops.h"
#include "runtime/exec/device.h"
#include "runtime/exec/pass_place.h"

namespace sluice::exec {

struct GpuMemory {
  Bytes total, free;  // now
  // What this process has taken since the GPU was opened, while it has no device and no passes are timed: the driver's
  // context, kernels loaded so far, libraries and their workspaces.
  Bytes context;
  Bytes others;  // other processes', when the GPU was opened
};

struct OpsSize {
  int64_t tokens_max = 0;  // of all micro-batches of a step, each of the same share at most
  int micro_batches_max = 0;
  int64_t positions_max = 0;  // of a document
  bool deterministic = true;  // attention's backward; else the faster one
};

struct CopyRates {
  BytesPerSecond h2d, d2h;
  BytesPerSecond both;  // at the same time, as much each way
};

class Gpu {
 public:
  virtual ~Gpu() = default;
  virtual std::string name() const = 0;  // "NVIDIA GeForce RTX 4090"
  virtual GpuMemory memory() const = 0;
  // What the board has drawn since its driver was loaded; nothing where nobody counts it (core/nvml.h).
  virtual std::optional<double> joules() const = 0;
  virtual std::unique_ptr<models::Ops> make_ops(const OpsSize& size) = 0;
  // As make_cuda_device: `events` and `clock` must outlive it.
  virtual std::unique_ptr<Device> make_device(Bytes memory, EventQueue& events, const PhaseClock& clock) = 0;
  // Where block passes are timed. Valid as long as this.
  virtual PassPlace& pass_place() = 0;
  // Between pinned host memory and the device; takes some tenths of a second.
  virtual CopyRates measure_copies() = 0;
  // What such an AdamW reads and writes per second in the device's memory; takes some milliseconds.
  virtual BytesPerSecond measure_updates(const UpdateKind& kind) = 0;
  // What LibTorch's kernels want beside the arena: a device that is made afterwards has it take that at once.
  virtual void hold_transient(Bytes bytes) = 0;
  // LibTorch may hold no more than this: exceeding it is an error of the op.
  virtual void limit_transient(Bytes most) = 0;
};

// What the library exports, under kGpuEntrySymbol.
struct GpuEntry {
  const char* version;
  // Null when there is none to be used: `why` says so, and what to do.
  std::unique_ptr<Gpu> (*open)(int device, std::string& why);
};
inline constexpr const char* kGpuLibrary = "libsluice_cuda.so";
inline constexpr const char* kGpuEntrySymbol = "sluice_gpu_entry";
using GpuEntryFunction = const GpuEntry* (*)();

}  // namespace sluice::exec
