#include "runtime/exec/pass_place.h"

#include <chrono>
#include <cstring>
#include <fstream>
#include <string>

#include "swap/host_slab.h"

namespace sluice::exec {
namespace {

// A line of /proc/self/status such as "VmHWM:   123 kB"; 0 when there is none.
int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size() + 1)) << 10;
  return 0;
}
// The kernel's high-water mark of this process starts anew.
void reset_high_water() { std::ofstream("/proc/self/clear_refs") << "5"; }

class HostMemory final : public PassPlace::Memory {
 public:
  explicit HostMemory(Bytes bytes) : slab_(bytes) {}
  std::span<std::byte> bytes() const override { return slab_.memory(); }

 private:
  swap::HostSlab slab_;
};

class HostPlace final : public PassPlace {
 public:
  std::unique_ptr<Memory> allocate(Bytes bytes) override { return std::make_unique<HostMemory>(bytes); }
  void write(std::byte* to, std::span<const std::byte> from) override { std::memcpy(to, from.data(), from.size()); }
  Microseconds time(const std::function<void()>& pass) override {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    pass();
    return {std::chrono::duration<double, std::micro>(Clock::now() - begin).count()};
  }
  void begin_transient() override {
    reset_high_water();
    before_ = status_bytes("VmRSS:");
  }
  Bytes transient() override { return Bytes{status_bytes("VmHWM:") - before_}; }

 private:
  int64_t before_ = 0;
};

}  // namespace

std::unique_ptr<PassPlace> make_host_place() { return std::make_unique<HostPlace>(); }

}  // namespace sluice::exec
