// machine.yaml: what is accepted has usable rates, and says the same when we have written it.
#include <cmath>

#include "runtime/train/machine_file.h"
#include "tests/fuzz/fuzz_folder.h"

namespace sluice::fuzz {
namespace {

void check_rates(const plan::Machine& machine) {
  const plan::MachineProfile profile = plan::profile_of(machine);
  for (const BytesPerSecond rate : {profile.h2d, profile.d2h, profile.disk_read, profile.disk_write, machine.dram})
    SLUICE_CHECK(std::isfinite(rate.count) && rate.count > 0, "a rate that no time comes of");
  SLUICE_CHECK(machine.host_bytes.count > 0 && machine.device_bytes.count >= 0, "a machine without memory");
  for (const auto& [dtype, gemm] : machine.gemm) {
    const double time = plan::gemm_time(gemm, 64, 64, 64).count;
    SLUICE_CHECK(std::isfinite(time) && time > 0, "a product that takes no time, or never ends");
  }
}

}  // namespace
}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  using namespace sluice;
  plan::Machine machine;
  if (!fuzz::accepts([&] { machine = train::parse_machine(std::string(fuzz::text_of(data, bytes)), "machine.yaml"); }))
    return 0;
  fuzz::check_rates(machine);
  const std::string written = train::machine_text(machine);
  SLUICE_CHECK(train::machine_text(train::parse_machine(written, "written.yaml")) == written,
               "a machine that reads otherwise once written");
  return 0;
}
