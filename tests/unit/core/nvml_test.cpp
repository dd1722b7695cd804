// NVML as the driver's library answers: a stand-in's, which the test's environment puts first on the loader's path.
#include "runtime/core/nvml.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace sluice {
namespace {

TEST(Nvml, TellsWhatTheDriverTells) {
  const Nvml nvml;
  ASSERT_EQ(nvml.refused(), "");
  EXPECT_EQ(nvml.driver_version(), "550.54.14");
  EXPECT_EQ(nvml.cuda_version(), "12.4");
  const std::vector<GpuSeen> gpus = nvml.gpus();
  ASSERT_EQ(gpus.size(), 1u);
  EXPECT_EQ(gpus[0].name, "Stand-in GPU 9000");
  EXPECT_EQ(gpus[0].memory, GiB(24));
  EXPECT_EQ(gpus[0].used, GiB(4));
  EXPECT_EQ(gpus[0].major * 10 + gpus[0].minor, 89);
  EXPECT_EQ(gpus[0].link_generation, 4);
  EXPECT_EQ(gpus[0].link_lanes, 16);
}

TEST(Nvml, KnowsAGpuByItsPlaceAndNoOther) {
  const Nvml nvml;
  EXPECT_EQ(nvml.used("0000:41:00.0"), GiB(4));
  EXPECT_EQ(nvml.used("0000:42:00.0"), std::nullopt);
  EXPECT_EQ(nvml.joules("0000:41:00.0"), 1.5);
  EXPECT_EQ(nvml.joules("0000:42:00.0"), std::nullopt);
}

TEST(Nvml, SaysWhyItDoesNotStart) {
  setenv("FAKE_NVML", "broken", 1);
  const Nvml nvml;
  unsetenv("FAKE_NVML");
  EXPECT_EQ(nvml.refused(), "libnvidia-ml.so.1 does not start: Driver Not Loaded");
  EXPECT_TRUE(nvml.gpus().empty());
  EXPECT_EQ(nvml.driver_version(), "");
  EXPECT_EQ(nvml.used("0000:41:00.0"), std::nullopt);
}

}  // namespace
}  // namespace sluice
