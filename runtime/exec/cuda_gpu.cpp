// A GPU of this machine through CUDA and LibTorch: what the library exports.
#include <ATen/Context.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>

#include "models/cuda/cuda_ops.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "runtime/exec/cuda_device.h"
#include "runtime/exec/cuda_group_kernels.h"
#include "runtime/exec/gpu.h"
#include "runtime/exec/gpu_usage.h"

namespace sluice::exec {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

std::string pci_bus_id(int device) {
  std::array<char, 32> id{};
  check_cuda(cudaDeviceGetPCIBusId(id.data(), static_cast<int>(id.size()), device), "asking where the GPU is");
  return id.data();
}

class DeviceMemory final : public PassPlace::Memory {
 public:
  explicit DeviceMemory(Bytes bytes) : memory_(CudaMemoryKind::device, bytes, "one block of this job") {}
  std::span<std::byte> bytes() const override { return memory_.bytes(); }

 private:
  CudaMemory memory_;
};

// A stream with a begin and an end that are timed.
class TimedStream {
 public:
  TimedStream() {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
    for (cudaEvent_t& event : events_) check_cuda(cudaEventCreate(&event), "creating an event");
  }
  ~TimedStream() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaStreamDestroy(stream_);
  }
  TimedStream(const TimedStream&) = delete;
  TimedStream& operator=(const TimedStream&) = delete;

  cudaStream_t get() const { return stream_; }
  void begin() { check_cuda(cudaEventRecord(events_[0], stream_), "recording an event"); }
  void end() { check_cuda(cudaEventRecord(events_[1], stream_), "recording an event"); }
  // Blocks until the end has come.
  Microseconds time() const {
    float milliseconds = 0;
    check_cuda(cudaEventSynchronize(events_[1]), "waiting for the GPU");
    check_cuda(cudaEventElapsedTime(&milliseconds, events_[0], events_[1]), "reading the time of an event");
    return {1e3 * static_cast<double>(milliseconds)};
  }

 private:
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, 2> events_{};
};

class CudaPlace final : public PassPlace {
 public:
  explicit CudaPlace(int device) : device_(device) {}

  std::unique_ptr<Memory> allocate(Bytes bytes) override { return std::make_unique<DeviceMemory>(bytes); }
  void write(std::byte* to, std::span<const std::byte> from) override {
    check_cuda(cudaMemcpy(to, from.data(), from.size(), cudaMemcpyHostToDevice), "copying to the GPU");
  }
  Microseconds time(const std::function<void()>& pass) override {
    models::cuda::use_stream(stream_.get(), device_);
    stream_.begin();
    pass();
    stream_.end();
    return stream_.time();
  }
  void begin_transient() override {
    allocator::emptyCache();
    allocator::resetPeakStats(index());
    before_ = reserved().current;
  }
  Bytes transient() override {
    const Bytes most{reserved().peak - before_};
    allocator::emptyCache();
    return most;
  }

 private:
  c10::DeviceIndex index() const { return static_cast<c10::DeviceIndex>(device_); }
  // With what fragmentation costs.
  c10::CachingAllocator::Stat reserved() const {
    return allocator::getDeviceStats(index())
        .reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  }

  int device_;
  TimedStream stream_;
  int64_t before_ = 0;
};

class CudaGpu final : public Gpu {
 public:
  // `used_before`: by all, before this process had a context there.
  CudaGpu(int device, Bytes used_before)
      : device_(device),
        used_before_(used_before),
        place_((at::globalContext().lazyInitDevice(at::kCUDA),
                check_cuda(cudaSetDevice(device), "choosing GPU " + std::to_string(device)), device)) {}

  std::string name() const override {
    cudaDeviceProp about{};
    check_cuda(cudaGetDeviceProperties(&about, device_), "asking what the GPU is");
    return about.name;
  }
  GpuMemory memory() const override {
    const CudaUsage now = cuda_usage(device_);
    return {now.total, now.free, std::max(now.total - now.free - used_before_, Bytes{}), used_before_};
  }
  std::unique_ptr<models::Ops> make_ops(const OpsSize& size) override {
    return models::cuda::make_cuda_ops(
        {device_, size.tokens_max, size.micro_batches_max, size.positions_max, size.deterministic});
  }
  std::unique_ptr<Device> make_device(Bytes memory, EventQueue& events, const PhaseClock& clock) override {
    return make_cuda_device(
        {memory, device_, [device = device_](CUstream_st* stream) { models::cuda::use_stream(stream, device); }},
        events, clock);
  }
  PassPlace& pass_place() override { return place_; }

  CopyRates measure_copies() override {
    constexpr Bytes kBytes = MiB(64);
    constexpr int kCopies = 12;
    const CudaMemory host(CudaMemoryKind::pinned, kBytes * 2, "timing copies");
    const CudaMemory device(CudaMemoryKind::device, kBytes * 2, "timing copies");
    TimedStream in, out;
    const auto bytes = static_cast<size_t>(kBytes.count);
    const auto copy_in = [&] {
      check_cuda(cudaMemcpyAsync(device.bytes().data(), host.bytes().data(), bytes, cudaMemcpyHostToDevice, in.get()),
                 "copying to the GPU");
    };
    const auto copy_out = [&] {
      check_cuda(cudaMemcpyAsync(host.bytes().data() + bytes, device.bytes().data() + bytes, bytes,
                                 cudaMemcpyDeviceToHost, out.get()),
                 "copying from the GPU");
    };
    const auto rate = [&](double copies, Microseconds time) {
      return BytesPerSecond{copies * static_cast<double>(kBytes.count) / (time.count / 1e6)};
    };
    const auto alone = [&](TimedStream& stream, const auto& copy) {
      copy();
      stream.begin();
      for (int i = 0; i < kCopies; ++i) copy();
      stream.end();
      return rate(kCopies, stream.time());
    };
    CopyRates rates;
    rates.h2d = alone(in, copy_in);
    rates.d2h = alone(out, copy_out);
    in.begin();
    out.begin();
    for (int i = 0; i < kCopies; ++i) {
      copy_in();
      copy_out();
    }
    in.end();
    out.end();
    rates.both = rate(2 * kCopies, std::max(in.time(), out.time()));
    return rates;
  }

  BytesPerSecond measure_updates() override {
    constexpr int64_t kElements = 8 << 20;  // several times an L2 cache
    constexpr int64_t kBytesOfEach = 2 + 4 + 10, kBytesMovedOfEach = 2 * 2 + 4 + 2 * 10;
    constexpr int kUpdates = 8;
    const CudaMemory memory(CudaMemoryKind::device, Bytes{kElements * kBytesOfEach}, "timing updates");
    const std::span<std::byte> bytes = memory.bytes();
    check_cuda(cudaMemset(bytes.data(), 0, bytes.size()), "clearing memory");
    const StateLayout layout(MomentFormat::f32, Dtype::bf16);
    const GroupChunk chunk{.weights = bytes.data() + kElements * (4 + 10),
                           .gradients = bytes.data(),
                           .states = bytes.data() + kElements * 4,
                           .layout = &layout,
                           .elements = kElements,
                           .decayed = kElements};
    TimedStream stream;
    const auto kernels = make_cuda_group_kernels(stream.get());
    kernels->update(chunk, {});
    stream.begin();
    for (int i = 0; i < kUpdates; ++i) kernels->update(chunk, {});
    stream.end();
    return {kUpdates * static_cast<double>(kElements * kBytesMovedOfEach) / (stream.time().count / 1e6)};
  }

  void limit_transient(Bytes most) override {
    const double total = static_cast<double>(memory().total.count);
    allocator::setMemoryFraction(std::min(1.0, static_cast<double>(most.count) / total),
                                 static_cast<c10::DeviceIndex>(device_));
  }

 private:
  int device_;
  Bytes used_before_;
  CudaPlace place_;
};

std::unique_ptr<Gpu> open_gpu(int device, std::string& why) {
  if (cuda_devices(why) <= device) {
    if (why.empty()) why = "there is no GPU " + std::to_string(device);
    return nullptr;
  }
  // Before the first call that makes a context.
  const std::optional<Bytes> used = gpu_bytes_used(pci_bus_id(device));
  if (used) return std::make_unique<CudaGpu>(device, *used);
  const CudaUsage now = cuda_usage(device);
  return std::make_unique<CudaGpu>(device, now.total - now.free);
}

}  // namespace
}  // namespace sluice::exec

extern "C" const sluice::exec::GpuEntry* sluice_gpu_entry() {
  static constexpr sluice::exec::GpuEntry entry = {SLUICE_VERSION, sluice::exec::open_gpu};
  return &entry;
}
