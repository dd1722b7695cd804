// The driver's management library as gpu_usage.cpp opens it, with one GPU: for machines that have none.
#include <cstring>

namespace {

int devices_open = 0;
unsigned long long millijoules = 1500;

}  // namespace

struct Memory {
  unsigned long long total, free, used;
};

extern "C" {

int nvmlInit_v2() {
  ++devices_open;
  return 0;
}
int nvmlShutdown() {
  --devices_open;
  return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* pci_bus_id, void** device) {
  constexpr int kNotFound = 6;
  if (devices_open <= 0 || std::strcmp(pci_bus_id, "0000:01:00.0") != 0) return kNotFound;
  *device = &millijoules;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
  *memory = {8ull << 30, 6ull << 30, 2ull << 30};
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* drawn) {
  *drawn = *static_cast<unsigned long long*>(device);
  return 0;
}
}
