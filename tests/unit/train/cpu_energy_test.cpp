#include "runtime/train/cpu_energy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// The kernel's powercap files.
class CpuEnergyTest : public testing::Test {
 protected:
  CpuEnergyTest() { fs::remove_all(root_); }
  ~CpuEnergyTest() override { fs::remove_all(root_); }

  void zone(const std::string& name, const std::string& what, const std::string& energy) const {
    const fs::path folder = root_ / "sys/class/powercap" / name;
    fs::create_directories(folder);
    std::ofstream(folder / "name") << what << '\n';
    std::ofstream(folder / "max_energy_range_uj") << "1000000000\n";
    if (energy.empty()) return;
    std::ofstream(folder / "energy_uj") << energy << '\n';
  }

  const fs::path root_ = fs::temp_directory_path() / ("cpu_energy_test." + std::to_string(getpid()));
};

TEST_F(CpuEnergyTest, IsThatOfPackagesAndTheirMemoryAndOfNothingTwice) {
  zone("intel-rapl", "", "");
  zone("intel-rapl:0", "package-0", "5000000");
  zone("intel-rapl:1", "package-1", "0");
  zone("intel-rapl:0:0", "core", "4000000");
  zone("intel-rapl:0:1", "dram", "1000000");
  CpuEnergy energy(root_);
  EXPECT_EQ(energy.why_not(), "");
  EXPECT_DOUBLE_EQ(energy.joules(), 0);
  zone("intel-rapl:0", "package-0", "7000000");
  zone("intel-rapl:1", "package-1", "500000");
  zone("intel-rapl:0:0", "core", "6000000");
  zone("intel-rapl:0:1", "dram", "1250000");
  EXPECT_DOUBLE_EQ(energy.joules(), 2 + 0.5 + 0.25);
}

TEST_F(CpuEnergyTest, ACounterThatBeganAnewHasLostNothing) {
  zone("intel-rapl:0", "package-0", "999000000");
  CpuEnergy energy(root_);
  zone("intel-rapl:0", "package-0", "2000000");
  EXPECT_DOUBLE_EQ(energy.joules(), 3);
  EXPECT_DOUBLE_EQ(energy.joules(), 3);
}

TEST_F(CpuEnergyTest, CountersThatCannotBeReadAreSaidNotGuessed) {
  zone("intel-rapl:0", "package-0", "5000000");
  zone("intel-rapl:1", "package-1", "");
  CpuEnergy energy(root_);
  EXPECT_NE(energy.why_not().find("readable by root only"), std::string::npos);
  zone("intel-rapl:0", "package-0", "7000000");
  EXPECT_DOUBLE_EQ(energy.joules(), 0);
}

TEST_F(CpuEnergyTest, ACounterWhoseRangeIsNotTold) {
  zone("intel-rapl:0", "package-0", "5000000");
  fs::remove(root_ / "sys/class/powercap/intel-rapl:0/max_energy_range_uj");
  EXPECT_NE(CpuEnergy(root_).why_not().find("readable by root only"), std::string::npos);
}

TEST_F(CpuEnergyTest, ACounterThatIsGoneLaterAddsNothing) {
  zone("intel-rapl:0", "package-0", "5000000");
  CpuEnergy energy(root_);
  zone("intel-rapl:0", "package-0", "6000000");
  EXPECT_DOUBLE_EQ(energy.joules(), 1);
  fs::remove(root_ / "sys/class/powercap/intel-rapl:0/energy_uj");
  EXPECT_DOUBLE_EQ(energy.joules(), 1);
}

TEST_F(CpuEnergyTest, AHostWithoutCountersSaysSo) {
  EXPECT_NE(CpuEnergy(root_).why_not().find("no RAPL"), std::string::npos);
}

}  // namespace
}  // namespace sluice::train
