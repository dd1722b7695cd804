// A GPU of this machine through CUDA and LibTorch: what the library exports.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <optional>

#include "models/cuda/cuda_ops.h"
#include "models/cuda/self_check.h"
#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "runtime/core/nvml.h"
#include "runtime/core/result.h"
#include "runtime/exec/cuda_device.h"
#include "runtime/exec/cuda_group_kernels.h"
#include "runtime/exec/gpu.h"

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

// From now on LibTorch cuts what the calling thread's ops take out of one piece of memory: later no op allocates, which
// would wait for the whole device.
void take_transient(Bytes bytes, int device) try {
  const auto where = at::TensorOptions().device(at::kCUDA, static_cast<c10::DeviceIndex>(device));
  if (bytes.count > 0) at::empty({bytes.count}, where.dtype(at::kByte));  // given back at once, to LibTorch
} catch (const c10::OutOfMemoryError&) {
  throw SetupError("what ops take beside the plan's memory, " + to_string(bytes) + ", is not free any more",
                   "end the other processes that `nvidia-smi` shows, or lower offload.max_gpu");
}

class CudaPlace final : public PassPlace {
 public:
  // Ops that the calling thread runs outside of `time` go to the same stream.
  explicit CudaPlace(int device) : device_(device), callers_(c10::cuda::getCurrentCUDAStream(index())) {
    models::cuda::use_stream(stream_.get(), device_);
  }
  // The program around us may go on with LibTorch.
  ~CudaPlace() override { c10::cuda::setCurrentCUDAStream(callers_); }

  std::unique_ptr<Memory> allocate(Bytes bytes) override { return std::make_unique<DeviceMemory>(bytes); }
  void write(std::byte* to, std::span<const std::byte> from) override { copy_to_device(to, from, "what a pass reads"); }
  Microseconds time(const std::function<void()>& pass) override {
    models::cuda::use_stream(stream_.get(), device_);
    stream_.begin();
    pass();
    stream_.end();
    return stream_.time();
  }
  void begin_transient() override {
    limit_all(1);
    allocator::emptyCache();
    allocator::resetPeakStats(index());
    before_ = reserved().current;
  }
  Bytes transient() override {
    const Bytes most{reserved().peak - before_};
    allocator::emptyCache();
    return most;
  }

  // Of what LibTorch may hold of the GPU, which is one limit for the whole process.
  void limit_all(double share) const { allocator::setMemoryFraction(share, index()); }
  Bytes held() const { return Bytes{reserved().current}; }

 private:
  c10::DeviceIndex index() const { return static_cast<c10::DeviceIndex>(device_); }
  // With what fragmentation costs.
  c10::CachingAllocator::Stat reserved() const {
    return allocator::getDeviceStats(index())
        .reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  }

  int device_;
  c10::cuda::CUDAStream callers_;
  TimedStream stream_;
  int64_t before_ = 0;
};

class CudaGpu final : public Gpu {
 public:
  // `used_before`: by all, as the driver's management library saw it before this process had a context there.
  CudaGpu(int device, std::optional<Bytes> used_before)
      : device_(device),
        used_before_(used_before),
        taken_at_begin_((at::globalContext().lazyInitDevice(at::kCUDA), taken_by_all())),
        others_(taken_at_begin_ - taken_by_us(taken_at_begin_)),
        place_(device) {}
  ~CudaGpu() override {
    try {
      place_.limit_all(share_before_);
    } catch (const c10::Error&) {
      // There is no GPU any more that it would limit.
    }
  }

  std::string name() const override {
    cudaDeviceProp about{};
    check_cuda(cudaGetDeviceProperties(&about, device_), "asking what the GPU is");
    return about.name;
  }
  GpuMemory memory() const override {
    const CudaUsage now = cuda_usage(device_);
    return {now.total, now.free, taken_by_us(now.total - now.free), others_};
  }
  std::optional<double> joules() const override { return Nvml().joules(pci_bus_id(device_)); }
  std::unique_ptr<models::Ops> make_ops(const OpsSize& size) override {
    return models::cuda::make_cuda_ops(
        {device_, size.tokens_max, size.micro_batches_max, size.positions_max, size.deterministic});
  }
  std::unique_ptr<Device> make_device(Bytes memory, EventQueue& events, const PhaseClock& clock) override {
    const auto begin_compute = [device = device_, transient = transient_](CUstream_st* stream) {
      models::cuda::use_stream(stream, device);
      take_transient(transient, device);
    };
    return make_cuda_device({memory, device_, begin_compute}, events, clock);
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

  BytesPerSecond measure_updates(const UpdateKind& kind) override {
    constexpr int64_t kElements = 8 << 20;  // several times an L2 cache
    constexpr int kUpdates = 8;
    const CudaMemory memory(CudaMemoryKind::device, bytes_of(kind, kElements), "timing updates");
    const std::span<std::byte> bytes = memory.bytes();
    const GroupChunk chunk = lay_out_chunk(kind, kElements, bytes.data());
    TimedStream stream;
    // Small numbers, whatever they are read as: zeros would spare 8-bit moments their codes.
    check_cuda(cudaMemsetAsync(bytes.data(), 0x3a, bytes.size(), stream.get()), "filling memory");
    const auto kernels = make_cuda_group_kernels(stream.get());
    kernels->update(chunk, {});
    stream.begin();
    for (int i = 0; i < kUpdates; ++i) kernels->update(chunk, {});
    stream.end();
    const auto moved = static_cast<double>(bytes_moved(kind, kElements).count);
    return {kUpdates * moved / (stream.time().count / 1e6)};
  }

  void hold_transient(Bytes bytes) override {
    transient_ = Bytes{round_down(std::max(bytes - kSmallBlocks, Bytes{}).count, MiB(2).count)};
  }
  void limit_transient(Bytes most) override {
    const double total = static_cast<double>(cuda_usage(device_).total.count);
    // What the program around us holds there is not ours to limit.
    place_.limit_all(std::min(1.0, static_cast<double>((place_.held() + most).count) / total));
  }

 private:
  // LibTorch keeps what is smaller than a MiB apart, in segments of two.
  static constexpr Bytes kSmallBlocks = MiB(24);

  Bytes taken_by_all() const {
    const CudaUsage now = cuda_usage(device_);
    return now.total - now.free;
  }
  // `taken`: by all, as CUDA sees it. That library counts otherwise (what the driver reserved, for one): it is compared
  // with itself. Where it is not there, nobody saw how large the context is.
  Bytes taken_by_us(Bytes taken) const {
    constexpr Bytes kContextUnseen = MiB(512);
    const std::optional<Bytes> used = used_before_ ? Nvml().used(pci_bus_id(device_)) : std::nullopt;
    const Bytes ours = used ? *used - *used_before_ : taken - taken_at_begin_ + kContextUnseen;
    return std::clamp(ours, Bytes{}, taken);
  }

  int device_;
  std::optional<Bytes> used_before_;
  Bytes taken_at_begin_;  // by all, this process's context included
  Bytes others_;
  Bytes transient_;
  const double share_before_ = allocator::getMemoryFraction(static_cast<c10::DeviceIndex>(device_));
  CudaPlace place_;
};

// Why its architecture does not do; empty: it does. Newer ones than are known compile our kernels when they load.
std::string too_old(int device) {
  constexpr int kMajorLeast = 8;  // bf16 products, and LibTorch's flash attention
  int major = 0, minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking what the GPU is");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking what the GPU is");
  if (major >= kMajorLeast) return "";
  return "the GPU has compute capability " + std::to_string(major) + '.' + std::to_string(minor) + ", and " +
         std::to_string(kMajorLeast) + ".0 (Ampere) is the least that does";
}

std::unique_ptr<Gpu> open_gpu(int device, std::string& why) {
  if (cuda_devices(why) <= device) {
    if (why.empty()) why = "there is no GPU " + std::to_string(device);
    return nullptr;
  }
  if (why = too_old(device); !why.empty()) return nullptr;
  std::unique_ptr<Gpu> gpu;
  try {
    // Before the first call that makes a context: later jobs of this process find it there.
    static const std::optional<Bytes> used = Nvml().used(pci_bus_id(device));
    gpu = std::make_unique<CudaGpu>(device, used);
  } catch (const RunError& refused) {  // others have all of its memory, or it is another's alone
    why = refused.error().message;
    return nullptr;
  } catch (const c10::Error& refused) {
    why = refused.what_without_backtrace();
    return nullptr;
  }
  models::cuda::check_arithmetic(device);
  return gpu;
}

}  // namespace
}  // namespace sluice::exec

extern "C" const sluice::exec::GpuEntry* sluice_gpu_entry() {
  static constexpr sluice::exec::GpuEntry entry = {SLUICE_VERSION, sluice::exec::open_gpu};
  return &entry;
}
