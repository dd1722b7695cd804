#include "tests/unit/exec/fake_cuda.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "runtime/exec/cuda_group_kernels.h"

namespace {

constexpr size_t kMemory = size_t{1} << 36;

struct Event {
  double milliseconds = -1;  // not recorded yet
};

std::mutex mutex;
std::map<uintptr_t, size_t> registered;
std::atomic<int> calls_left{-1};  // below 0: as many as one likes
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t counted() {
  int left = calls_left;
  while (left > 0 && !calls_left.compare_exchange_weak(left, left - 1)) {
  }
  return left == 0 ? cudaErrorIllegalAddress : cudaSuccess;
}

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// All in one registration, or in none.
bool pinned_alike(const void* memory, size_t bytes) {
  const std::lock_guard lock(mutex);
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  for (const auto& [at, size] : registered)
    if (begin < at + size && begin + bytes > at) return begin >= at && begin + bytes <= at + size;
  return true;
}

Event* of(cudaEvent_t event) { return reinterpret_cast<Event*>(event); }

}  // namespace

namespace sluice::fake_cuda {

void fail_at(int calls) { calls_left = calls - 1; }

}  // namespace sluice::fake_cuda

namespace sluice::exec {

std::unique_ptr<GroupKernels> make_cuda_group_kernels(CUstream_st*) { return make_host_group_kernels(1); }

}  // namespace sluice::exec

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : last_error = cudaErrorInvalidDevice; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t) { return "an error"; }
const char* cudaGetErrorString(cudaError_t) { return "of the fake GPU"; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = kMemory, cudaSuccess; }

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (bytes > kMemory) return cudaErrorMemoryAllocation;
  *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) { return std::free(memory), cudaSuccess; }
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned) {
  const std::lock_guard lock(mutex);
  registered[reinterpret_cast<uintptr_t>(memory)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* memory) {
  const std::lock_guard lock(mutex);
  return registered.erase(reinterpret_cast<uintptr_t>(memory)) == 1 ? cudaSuccess : cudaErrorHostMemoryNotRegistered;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind == cudaMemcpyHostToDevice && !pinned_alike(from, bytes)) return cudaErrorInvalidValue;
  if (kind == cudaMemcpyDeviceToHost && !pinned_alike(to, bytes)) return cudaErrorInvalidValue;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -5, cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  *stream = reinterpret_cast<cudaStream_t>(new char);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete reinterpret_cast<char*>(stream), cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  return of(event)->milliseconds < 0 ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete of(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  of(event)->milliseconds = now();
  return counted();
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return counted(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = static_cast<float>(of(end)->milliseconds - of(begin)->milliseconds);
  return cudaSuccess;
}

}  // extern "C"
