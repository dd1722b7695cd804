#include <cstring>
#include <optional>
#include <thread>

#include "runtime/exec/device.h"
#include "runtime/exec/op_board.h"
#include "swap/host_slab.h"

namespace sluice::exec {
namespace {

class ThreadDevice final : public Device {
 public:
  ThreadDevice(const ThreadDeviceOptions& options, EventQueue& events, const PhaseClock& clock)
      : options_(options), events_(events), clock_(clock), compute_("compute") {
    if (options.memory.count == 0) return;
    slab_.emplace(options.memory);
    group_kernels_ = make_host_group_kernels(options.optimizer_threads);
    h2d_.emplace("h2d");
    d2h_.emplace("d2h");
  }

  std::span<std::byte> memory() const override { return slab_ ? slab_->memory() : std::span<std::byte>(); }
  void begin_phase(const plan::Schedule& schedule) override { board_.reset(schedule.ops.size()); }
  void abandon() override { board_.abandon(); }
  GroupKernels* group_kernels() override { return group_kernels_.get(); }
  void read(std::byte* to, const std::byte* from, Bytes bytes) override {
    std::memcpy(to, from, static_cast<size_t>(bytes.count));
  }
  void write(std::byte* to, const std::byte* from, Bytes bytes) override { read(to, from, bytes); }

  void post_copy(DeviceOp op, std::byte* to, const std::byte* from, Bytes bytes) override {
    const bool to_device = op.lane == Lane::h2d;
    const BytesPerSecond rate = to_device ? options_.h2d : options_.d2h;
    post(to_device ? *h2d_ : *d2h_, std::move(op), [this, to, from, bytes, rate](LaneEvent& event) {
      std::memcpy(to, from, static_cast<size_t>(bytes.count));
      if (rate.count > 0) clock_.wait_until(event.begin_us + (bytes / rate).count);
    });
  }

  void post_compute(DeviceOp op, std::function<ComputeOutcome()> body) override {
    post(compute_, std::move(op), [body = std::move(body)](LaneEvent& event) {
      ComputeOutcome outcome = body();
      if (outcome.when_done) outcome = outcome.when_done();
      event.loss_sum = outcome.loss_sum;
      event.not_finite = std::move(outcome.not_finite);
      if (!outcome.result.ok()) event.error = outcome.result.error();
    });
  }

 private:
  template <class Body>
  void post(LaneThread& lane, DeviceOp op, Body body) {
    lane.post([this, op = std::move(op), body = std::move(body)] {
      LaneEvent event{op.id};
      const bool runs = board_.wait(op.after);
      event.begin_us = clock_.now_us();
      if (runs) body(event);
      event.end_us = clock_.now_us();
      // The lanes of this device first: they need not wait for the driver to wake up. After a failure, nobody.
      if (event.error) {
        board_.abandon();
      } else {
        board_.end(op.id);
      }
      events_.push(std::move(event));
    });
  }

  const ThreadDeviceOptions options_;
  EventQueue& events_;
  const PhaseClock& clock_;
  OpBoard board_;
  std::optional<swap::HostSlab> slab_;
  std::unique_ptr<GroupKernels> group_kernels_;
  // Last: they finish what was posted before anything else goes.
  LaneThread compute_;
  std::optional<LaneThread> h2d_, d2h_;
};

}  // namespace

void PhaseClock::wait_until(double us) const {
  // In one sleep: each time that it woke up, an update or a copy would lose its core.
  for (double left = us - now_us(); left > 0; left = us - now_us())
    std::this_thread::sleep_for(std::chrono::duration<double, std::micro>(left));
}

std::unique_ptr<Device> make_thread_device(const ThreadDeviceOptions& options, EventQueue& events,
                                           const PhaseClock& clock) {
  return std::make_unique<ThreadDevice>(options, events, clock);
}

}  // namespace sluice::exec
