#include "runtime/exec/gpu_usage.h"

#include <gtest/gtest.h>

namespace sluice::exec {
namespace {

// Beside tests/unit/exec/fake_nvml.cpp.
constexpr const char* kGpu = "0000:01:00.0";

TEST(GpuUsage, EnergyIsReadInJoules) { EXPECT_DOUBLE_EQ(gpu_joules(kGpu).value_or(0), 1.5); }

TEST(GpuUsage, MemoryIsReadInBytes) { EXPECT_EQ(gpu_bytes_used(kGpu), std::optional(GiB(2))); }

TEST(GpuUsage, AGpuThatIsNotThereHasNeither) {
  EXPECT_FALSE(gpu_joules("0000:02:00.0").has_value());
  EXPECT_FALSE(gpu_bytes_used("0000:02:00.0").has_value());
}

}  // namespace
}  // namespace sluice::exec
