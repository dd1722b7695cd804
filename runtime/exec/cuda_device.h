// One NVIDIA GPU: a stream per lane, events between them, nothing that waits for the whole device.
//
// Every lane has two threads. One enqueues: it waits until the ops before are enqueued on their streams, makes its own
// stream wait for their events, and enqueues the op; it never waits for the GPU. The other one waits for the events of
// enqueued ops, in order, and reports them with the GPU's own times.
#pragma once

#include <span>

#include "runtime/exec/device.h"

struct CUstream_st;

namespace sluice::exec {

struct CudaDeviceOptions {
  Bytes memory;  // the arena in VRAM
  int device = 0;
  // Called once on the thread that runs compute bodies, with the stream that they enqueue on.
  std::function<void(CUstream_st*)> on_compute_thread = [](CUstream_st*) {};
};

// The number of GPUs; 0 also when there is no driver, or one that is too old. `why` then says so, and what to do.
int cuda_devices(std::string& why);

class CudaDevice : public Device {
 public:
  virtual CUstream_st* compute_stream() const = 0;
};

// `events` and `clock` must outlive it. Throws SetupError when VRAM is short, naming what is free, and RunError.
std::unique_ptr<CudaDevice> make_cuda_device(const CudaDeviceOptions& options, EventQueue& events,
                                             const PhaseClock& clock);

}  // namespace sluice::exec
