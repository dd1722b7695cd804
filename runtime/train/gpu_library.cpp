#include "runtime/train/gpu_library.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// Beside the library that this function is in.
fs::path library_file() {
  Dl_info place{};
  if (dladdr(reinterpret_cast<void*>(&gpu_for), &place) == 0) return exec::kGpuLibrary;
  return fs::path(place.dli_fname).parent_path() / exec::kGpuLibrary;
}

// The driver's device files: of Linux, and of Windows' Linux.
bool shows_a_gpu() {
  std::error_code unreadable;
  return fs::exists("/dev/nvidiactl", unreadable) || fs::exists("/dev/dxg", unreadable);
}

// Stays open: what it made refers to its code.
std::unique_ptr<exec::Gpu> open(std::string& why) {
  const fs::path file = library_file();
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const std::string reason = dlerror();
    why = fs::exists(file) ? "cannot load " + reason
                           : "this build has no CUDA device; install the CUDA toolkit and run `make build` again";
    return nullptr;
  }
  void* symbol = dlsym(library, exec::kGpuEntrySymbol);
  const exec::GpuEntry* entry = symbol ? reinterpret_cast<exec::GpuEntryFunction>(symbol)() : nullptr;
  if (entry == nullptr || std::strcmp(entry->version, SLUICE_VERSION) != 0) {
    why = file.string() + " is not of the same build; run `make build` again";
    return nullptr;
  }
  return entry->open(0, why);
}

}  // namespace

std::unique_ptr<exec::Gpu> gpu_for(DeviceKind device, const std::string& who) {
  const bool asked = device == DeviceKind::cuda;
  if (!asked && (device != DeviceKind::automatic || !shows_a_gpu())) return nullptr;
  std::string why;
  std::unique_ptr<exec::Gpu> gpu = open(why);
  if (gpu == nullptr && asked)
    throw SetupError(who + ": device is cuda and no GPU can be used: " + why, "put that right, or set device: cpu");
  if (gpu == nullptr) std::fprintf(stderr, "note: the CPU computes: %s\n", why.c_str());
  return gpu;
}

}  // namespace sluice::train
