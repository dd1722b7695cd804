// Stands in for the driver's libnvidia-ml.so.1: one GPU at 0000:41:00.0. FAKE_NVML=broken: it does not start.
#include <cstdlib>
#include <cstring>

extern "C" {

struct Memory {
  unsigned long long total, free, used;
};

int nvmlInit_v2() {
  const char* how = std::getenv("FAKE_NVML");
  return how != nullptr && std::strcmp(how, "broken") == 0 ? 9 : 0;
}
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int status) { return status == 9 ? "Driver Not Loaded" : "Unknown Error"; }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = 1, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  static int gpu;
  *device = &gpu;
  return index == 0 ? 0 : 2;
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
int nvmlDeviceGetCudaComputeCapability(void*, int* major, int* minor) { return *major = 8, *minor = 9, 0; }
int nvmlDeviceGetMaxPcieLinkGeneration(void*, unsigned* generation) { return *generation = 4, 0; }
int nvmlDeviceGetMaxPcieLinkWidth(void*, unsigned* lanes) { return *lanes = 16, 0; }
int nvmlSystemGetDriverVersion(char* version, unsigned length) {
  std::strncpy(version, "550.54.14", length);
  return 0;
}
int nvmlSystemGetCudaDriverVersion_v2(int* version) { return *version = 12040, 0; }
}
