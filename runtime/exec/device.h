// What compute ops and copies run on. Its lanes (compute, h2d, d2h) order themselves: an op is posted once everything
// that it waits for on other lanes has ended; for ops of the device's own lanes it waits there, with no way back
// through the driver. The driver may so be many ops ahead of the device.
//
// Threads: one driver posts, everything else happens on the device's own threads. Every posted op pushes one LaneEvent.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/tier.h"
#include "runtime/exec/compute_op.h"
#include "runtime/exec/group_kernels.h"
#include "runtime/exec/lane_thread.h"

namespace sluice::exec {

constexpr bool on_device(Lane lane) { return lane == Lane::compute || lane == Lane::h2d || lane == Lane::d2h; }

// Microseconds since the phase began.
class PhaseClock {
 public:
  void restart() { start_ = Clock::now(); }
  double now_us() const { return std::chrono::duration<double, std::micro>(Clock::now() - start_).count(); }
  void wait_until(double us) const;  // on this thread

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

struct DeviceOp {
  plan::OpId id = plan::kNone;
  Lane lane = Lane::compute;
  std::vector<plan::OpId> after;  // ops of this device's lanes, posted before or yet to be; all with smaller ids
};

class Device {
 public:
  virtual ~Device() = default;

  // The device tier; empty where it is the host's own memory.
  virtual std::span<std::byte> memory() const = 0;
  // Makes copies from and to that host memory as fast as they can be, as long as the device lives. What could not be
  // done, for people; empty: all was.
  virtual std::string register_host(std::span<std::byte>) { return ""; }
  // Forgets the phase before, whose ops have all ended. The schedule must outlive the phase.
  virtual void begin_phase(const plan::Schedule& schedule) = 0;
  // Lanes take their ops in the order in which they are posted: that of the schedule.
  virtual void post_copy(DeviceOp op, std::byte* to, const std::byte* from, Bytes bytes) = 0;
  virtual void post_compute(DeviceOp op, std::function<ComputeOutcome()> body) = 0;
  // For the bodies of compute ops. Null where the device has no memory of its own.
  virtual GroupKernels* group_kernels() = 0;
  // From the device's memory to the host's; blocks. Between phases.
  virtual void read(std::byte* to, const std::byte* from, Bytes bytes) = 0;
  // The other way.
  virtual void write(std::byte* to, const std::byte* from, Bytes bytes) = 0;
  // After a failure somewhere: what is posted ends without being run, what it waits for may never come.
  virtual void abandon() = 0;
};

// Lanes that are threads of this process; compute is the CPU's.
struct ThreadDeviceOptions {
  Bytes memory;               // 0: host and device are one, and there are no copies
  BytesPerSecond h2d, d2h;    // 0: as fast as memory allows; else copies take at least their bytes over this
  int optimizer_threads = 1;  // for groups that live in that memory
};
// `events` and `clock` must outlive it. Throws SetupError when the machine does not have the memory.
std::unique_ptr<Device> make_thread_device(const ThreadDeviceOptions& options, EventQueue& events,
                                           const PhaseClock& clock);

}  // namespace sluice::exec
