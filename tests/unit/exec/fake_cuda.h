// A CUDA runtime whose GPU is the host: what a device does with threads, events and errors, tested without one. Its
// streams do everything at once, in the calling thread; it is as strict as the real one about pinned memory and about
// events that were never recorded. Kernels there are none.
#pragma once

namespace sluice::fake_cuda {

// The `calls`-th recording of, or wait for, an event from now on fails, and all after it, as after an illegal access.
// 0: none does.
void fail_at(int calls);

}  // namespace sluice::fake_cuda
