// Stands in for the driver's libnvidia-ml.so.1: one GPU at 0000:41:00.0. FAKE_NVML=broken: it does not start; old: its
// GPU is older than our kernels; terse: it tells a GPU's name and memory alone; pair: there are two.
#include <cstdlib>
#include <cstring>

namespace {

bool is(const char* kind) {
  const char* told = std::getenv("FAKE_NVML");
  return told != nullptr && std::strcmp(told, kind) == 0;
}

constexpr int kNotSupported = 3;

}  // namespace

extern "C" {

struct Memory {
  unsigned long long total, free, used;
};

int nvmlInit_v2() { return is("broken") ? 9 : 0; }
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int status) { return status == 9 ? "Driver Not Loaded" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = is("pair") ? 2 : 1, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  static int gpu;
  *device = &gpu;
  return index < (is("pair") ? 2u : 1u) ? 0 : 2;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
  return std::strcmp(id, "0000:41:00.0") == 0 ? nvmlDeviceGetHandleByIndex_v2(0, device) : 6;
}
int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
  *memory = {24ull << 30, 20ull << 30, 4ull << 30};
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) { return *millijoules = 1500, 0; }
int nvmlDeviceGetName(void*, char* name, unsigned length) {
  std::strncpy(name, "Stand-in GPU 9000", length);
  return 0;
}
int nvmlDeviceGetCudaComputeCapability(void*, int* major, int* minor) {
  if (is("terse")) return kNotSupported;
  *major = is("old") ? 7 : 8;
  *minor = is("old") ? 5 : 9;
  return 0;
}
int nvmlDeviceGetMaxPcieLinkGeneration(void*, unsigned* generation) {
  return is("terse") ? kNotSupported : (*generation = 4, 0);
}
int nvmlDeviceGetMaxPcieLinkWidth(void*, unsigned* lanes) { return is("terse") ? kNotSupported : (*lanes = 16, 0); }
int nvmlSystemGetDriverVersion(char* version, unsigned length) {
  std::strncpy(version, "550.54.14", length);
  return 0;
}
int nvmlSystemGetCudaDriverVersion_v2(int* version) { return is("terse") ? kNotSupported : (*version = 12040, 0); }
}
