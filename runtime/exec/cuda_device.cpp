#include "runtime/exec/cuda_device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <future>
#include <utility>

#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "runtime/exec/copy_parts.h"
#include "runtime/exec/cuda_group_kernels.h"
#include "runtime/exec/op_board.h"

namespace sluice::exec {
namespace {

constexpr Bytes kPinnedPiece = GiB(1);

// A timestamp on a stream that one may also wait for, with the waiting thread asleep.
class Event {
 public:
  Event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventBlockingSync), "creating an event"); }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  Event& operator=(Event&&) = delete;

  void record(cudaStream_t stream) const { check_cuda(cudaEventRecord(event_, stream), "recording an event"); }
  void block(cudaStream_t stream) const {
    check_cuda(cudaStreamWaitEvent(stream, event_, 0), "making a stream wait for another");
  }
  void wait(const std::string& what) const { check_cuda(cudaEventSynchronize(event_), what); }
  double us_since(const Event& earlier) const {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "reading the time of an event");
    return 1e3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class Stream {
 public:
  // Compute goes before copies where both want an SM.
  explicit Stream(bool urgent) {
    int least = 0, greatest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for stream priorities");
    check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, urgent ? greatest : least),
               "creating a stream");
  }
  // After a failure some of an op's parts may be on their way still, and the memory they use goes next.
  ~Stream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class PinnedMemory {
 public:
  ~PinnedMemory() {
    for (const std::span<std::byte> piece : parts_.pieces()) cudaHostUnregister(piece.data());
  }
  PinnedMemory() = default;
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  std::string add(std::span<std::byte> memory) {
    while (!memory.empty()) {
      const auto piece = memory.first(std::min(memory.size(), static_cast<size_t>(kPinnedPiece.count)));
      const cudaError_t result = cudaHostRegister(piece.data(), piece.size(), cudaHostRegisterPortable);
      if (result != cudaSuccess) {
        cudaGetLastError();
        return to_string(Bytes{static_cast<int64_t>(memory.size())}) + " of host memory could not be pinned (" +
               cudaGetErrorString(result) +
               "): copies from and to it are slower; raise `ulimit -l`, or give Windows more memory for WSL2";
      }
      parts_.add(piece);
      memory = memory.subspan(piece.size());
    }
    return "";
  }

  const CopyParts& parts() const { return parts_; }

 private:
  CopyParts parts_;
};

// The two threads of one lane.
struct LaneThreads {
  LaneThreads(const char* enqueues, const char* watches, bool urgent)
      : stream(urgent), watcher(watches), enqueuer(enqueues) {}
  Stream stream;
  LaneThread watcher;
  LaneThread enqueuer;  // last: it posts to the watcher
};

class OneGpu final : public CudaDevice {
 public:
  OneGpu(const CudaDeviceOptions& options, EventQueue& events, const PhaseClock& clock)
      : device_(select(options.device)),
        events_(events),
        clock_(clock),
        arena_(CudaMemoryKind::device, options.memory, "the plan"),
        compute_("compute", "compute.done", /*urgent=*/true),
        h2d_("h2d", "h2d.done", /*urgent=*/false),
        d2h_("d2h", "d2h.done", /*urgent=*/false) {
    group_kernels_ = make_cuda_group_kernels(compute_.stream.get());
    for (LaneThreads* lane : {&compute_, &h2d_, &d2h_})
      for (LaneThread* thread : {&lane->enqueuer, &lane->watcher}) run_on(*thread, [this] { select(device_); });
    run_on(compute_.enqueuer, [&] { options.on_compute_thread(compute_stream()); });
  }

  std::span<std::byte> memory() const override { return arena_.bytes(); }
  CUstream_st* compute_stream() const override { return compute_.stream.get(); }
  std::string register_host(std::span<std::byte> memory) override { return pinned_.add(memory); }
  void abandon() override { enqueued_.abandon(); }
  GroupKernels* group_kernels() override { return group_kernels_.get(); }
  void read(std::byte* to, const std::byte* from, Bytes bytes) override {
    select(device_);
    pinned_.parts().for_parts(to, static_cast<size_t>(bytes.count), [&](size_t begin, size_t count) {
      check_cuda(cudaMemcpy(to + begin, from + begin, count, cudaMemcpyDeviceToHost), "copying from the GPU");
    });
  }
  void write(std::byte* to, const std::byte* from, Bytes bytes) override {
    select(device_);
    pinned_.parts().for_parts(from, static_cast<size_t>(bytes.count), [&](size_t begin, size_t count) {
      check_cuda(cudaMemcpy(to + begin, from + begin, count, cudaMemcpyHostToDevice), "copying to the GPU");
    });
    // A copy from memory that is not registered may return when the driver has it, before the GPU does.
    check_cuda(cudaStreamSynchronize(nullptr), "copying to the GPU");
  }

  void begin_phase(const plan::Schedule& schedule) override {
    schedule_ = &schedule;
    const size_t ops = schedule.ops.size();
    enqueued_.reset(ops);
    while (begins_.size() < ops) begins_.emplace_back();
    while (ends_.size() < ops) ends_.emplace_back();
    phase_.record(compute_stream());
    phase_.wait("the begin of a phase");
    phase_us_ = clock_.now_us();
  }

  void post_copy(DeviceOp op, std::byte* to, const std::byte* from, Bytes bytes) override {
    const bool to_device = op.lane == Lane::h2d;
    LaneThreads& lane = to_device ? h2d_ : d2h_;
    const auto kind = to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
    const std::byte* const host = to_device ? from : to;
    post(lane, std::move(op), [this, to, from, host, bytes, kind, stream = lane.stream.get()] {
      pinned_.parts().for_parts(host, static_cast<size_t>(bytes.count), [&](size_t begin, size_t count) {
        check_cuda(cudaMemcpyAsync(to + begin, from + begin, count, kind, stream), "enqueuing a copy");
      });
      return ComputeOutcome{};
    });
  }
  void post_compute(DeviceOp op, std::function<ComputeOutcome()> body) override {
    post(compute_, std::move(op), std::move(body));
  }

 private:
  static int select(int device) {
    check_cuda(cudaSetDevice(device), "choosing GPU " + std::to_string(device));
    return device;
  }
  static size_t index(plan::OpId op) { return static_cast<size_t>(op); }
  // Waits for it; what it throws is thrown here.
  static void run_on(LaneThread& thread, const std::function<void()>& job) {
    const auto task = std::make_shared<std::packaged_task<void()>>(job);  // both threads may be the last to touch it
    thread.post([task] { (*task)(); });
    task->get_future().get();
  }

  void post(LaneThreads& lane, DeviceOp op, std::function<ComputeOutcome()> body) {
    lane.enqueuer.post([this, &lane, op = std::move(op), body = std::move(body)] {
      ComputeOutcome outcome;
      bool runs = enqueued_.wait(op.after);
      if (runs) try {
          outcome = enqueue(lane, op, body);
        } catch (const SluiceException& error) {
          Error named = error.error();
          named.message = describe(schedule_->ops[index(op.id)]) + ": " + named.message;
          outcome.result = std::move(named);
        } catch (const std::exception& error) {
          outcome.result = Error{ErrorCode::io, describe(schedule_->ops[index(op.id)]) + ": " + error.what(), ""};
        }
      runs = runs && outcome.result.ok();
      // A failed op was perhaps never recorded: nobody may wait for its event.
      runs ? enqueued_.end(op.id) : enqueued_.abandon();
      lane.watcher.post(
          [this, id = op.id, runs, outcome = std::move(outcome)]() mutable { report(id, runs, std::move(outcome)); });
    });
  }
  ComputeOutcome enqueue(LaneThreads& lane, const DeviceOp& op, const std::function<ComputeOutcome()>& body) {
    const cudaStream_t stream = lane.stream.get();
    for (const plan::OpId before : op.after) ends_[index(before)].block(stream);
    begins_[index(op.id)].record(stream);
    ComputeOutcome outcome = body();
    ends_[index(op.id)].record(stream);
    return outcome;
  }

  void report(plan::OpId id, bool enqueued, ComputeOutcome outcome) {
    LaneEvent event;
    event.op = id;
    try {
      if (enqueued) {
        ends_[index(id)].wait("the GPU stopped at " + describe(schedule_->ops[index(id)]) + " or shortly before");
        if (outcome.when_done) outcome = outcome.when_done();
        event.begin_us = phase_us_ + begins_[index(id)].us_since(phase_);
        event.end_us = phase_us_ + ends_[index(id)].us_since(phase_);
      }
      event.loss_sum = outcome.loss_sum;
      event.not_finite = std::move(outcome.not_finite);
      if (!outcome.result.ok()) event.error = outcome.result.error();
    } catch (const SluiceException& error) {
      event.error = error.error();
    } catch (const std::exception& error) {
      event.error = Error{ErrorCode::io, describe(schedule_->ops[index(id)]) + ": " + error.what(), ""};
    }
    if (event.error) enqueued_.abandon();
    events_.push(std::move(event));
  }

  const int device_;
  EventQueue& events_;
  const PhaseClock& clock_;
  const plan::Schedule* schedule_ = nullptr;
  OpBoard enqueued_;
  CudaMemory arena_;
  PinnedMemory pinned_;
  // Per op of the phase. Grown before anything of a phase is posted, never while its threads read them.
  std::vector<Event> begins_, ends_;
  Event phase_;
  double phase_us_ = 0;
  std::unique_ptr<GroupKernels> group_kernels_;
  LaneThreads compute_, h2d_, d2h_;  // last: they finish what was posted
};

}  // namespace

int cuda_devices(std::string& why) {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const auto version = [](int number) {
    return std::to_string(number / 1000) + '.' + std::to_string(number % 1000 / 10);
  };
  if (driver == 0) {
    why = "there is no NVIDIA driver; install one that knows CUDA " + version(runtime);
  } else if (driver / 1000 < runtime / 1000) {
    why = "the NVIDIA driver knows CUDA " + version(driver) + " and this build needs " + version(runtime) +
          "; install a newer driver";
  } else {
    why = std::string("the driver shows no GPU (") + cudaGetErrorString(result) + "); see `nvidia-smi`";
  }
  return 0;
}

std::unique_ptr<CudaDevice> make_cuda_device(const CudaDeviceOptions& options, EventQueue& events,
                                             const PhaseClock& clock) {
  return std::make_unique<OneGpu>(options, events, clock);
}

}  // namespace sluice::exec
