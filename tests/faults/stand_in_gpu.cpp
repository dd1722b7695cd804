// Stands in for libsluice_cuda.so: of a version that the build gives, and with no GPU.
#include "runtime/exec/gpu.h"

extern "C" const sluice::exec::GpuEntry* sluice_gpu_entry() {
  using namespace sluice::exec;
  static constexpr GpuEntry entry = {STAND_IN_VERSION, [](int, std::string& why) -> std::unique_ptr<Gpu> {
                                       why = "it is a stand-in";
                                       return nullptr;
                                     }};
  return &entry;
}
