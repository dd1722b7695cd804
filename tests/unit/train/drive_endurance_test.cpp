// Drives' models as sysfs shows them, and what their makers rate them for.
#include "runtime/train/drive_endurance.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "swap/drive_kind.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

TEST(DriveEndurance, IsTheDatasheetsForTheSizeInTheName) {
  EXPECT_EQ(rated_terabytes("Samsung SSD 990 PRO 2TB"), 1200);
  EXPECT_EQ(rated_terabytes("Samsung SSD 980 PRO 250GB"), 150);
  EXPECT_EQ(rated_terabytes("Samsung SSD 970 EVO Plus 1TB"), 600);
  EXPECT_EQ(rated_terabytes("WD_BLACK SN850X 4000GB"), 2400);
  EXPECT_EQ(rated_terabytes("Samsung SSD 990 PRO with Heatsink 1TB"), 600);
  EXPECT_EQ(rated_terabytes("WD_BLACK SN850X 4 lanes 2TB"), 1200);
  EXPECT_EQ(rated_terabytes("Samsung SSD 9100 PRO 8TB"), 4800);
  EXPECT_EQ(rated_terabytes("WD_BLACK SN770 500GB"), 300);
  EXPECT_EQ(rated_terabytes("WD_BLACK SN770 250GB"), 200) << "more for its size than the others";
  EXPECT_EQ(rated_terabytes("CT2000T500SSD8"), 1200);
  EXPECT_EQ(rated_terabytes("INTEL SSDPF2KX038TZ"), 7008);  // as in configs/machine/fuyou_768g.yaml
}

TEST(DriveEndurance, IsNotGuessed) {
  for (const char* model : {"", "Samsung SSD 990 PRO", "Samsung SSD 990 PRO with Heatsink", "Samsung SSD 990 PRO 2",
                            "Samsung SSD 990 EVO 2TB", "CT4000P3SSD8", "QEMU HARDDISK", "INTEL SSDPF2KX153TZ"})
    EXPECT_EQ(rated_terabytes(std::string(model)), std::nullopt) << model;
}

TEST(DriveEndurance, OfAStripeIsTheSumOrNothing) {
  using Models = std::vector<std::string>;
  EXPECT_EQ(rated_terabytes(Models{"Samsung SSD 990 PRO 2TB", "Samsung SSD 980 PRO 1TB"}), 1800);
  EXPECT_EQ(rated_terabytes(Models{"Samsung SSD 990 PRO 2TB", "QEMU HARDDISK"}), std::nullopt);
  EXPECT_EQ(rated_terabytes(Models{}), std::nullopt);
}

TEST(DriveEndurance, OfPathsIsThatOfTheDrivesBelow) {
  swap::DriveKind fast, other, unnamed;
  fast.device = "259:0";
  fast.models = {"Samsung SSD 990 PRO 2TB"};
  other.device = "259:5";
  other.models = {"WD_BLACK SN850X 1000GB"};
  unnamed.device = "254:0";
  using Paths = std::vector<swap::DriveKind>;
  EXPECT_EQ(rated_terabytes(Paths{fast, other}), 1800);
  EXPECT_EQ(rated_terabytes(Paths{fast, fast}), 1200) << "two folders of one drive";
  EXPECT_EQ(rated_terabytes(Paths{fast, unnamed}), std::nullopt);
  EXPECT_EQ(rated_terabytes(Paths{}), std::nullopt);
}

class DriveModels : public testing::Test {
 protected:
  ~DriveModels() override { fs::remove_all(root_); }
  void write(const fs::path& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  std::vector<std::string> of(const fs::path& device) const { return swap::drive_models(root_ / device); }

  const fs::path root_ = fs::path(testing::TempDir()) / ("drive_models." + std::to_string(getpid()));
};

TEST_F(DriveModels, OfADiskAndOfAPartitionOnIt) {
  write("nvme0n1/device/model", "Samsung SSD 990 PRO 2TB                 \n");
  write("nvme0n1/nvme0n1p2/partition", "2\n");
  EXPECT_EQ(of("nvme0n1"), std::vector<std::string>{"Samsung SSD 990 PRO 2TB"});
  EXPECT_EQ(of("nvme0n1/nvme0n1p2"), std::vector<std::string>{"Samsung SSD 990 PRO 2TB"});
}

TEST_F(DriveModels, BelowAVolumeAreAllOfThem) {
  write("nvme0n1/device/model", "Samsung SSD 990 PRO 2TB\n");
  write("nvme1n1/device/model", "WD_BLACK SN850X 2000GB\n");
  write("nvme1n1/nvme1n1p1/partition", "1\n");
  fs::create_directories(root_ / "md0/slaves");
  fs::create_directories(root_ / "dm-0/slaves");
  fs::create_symlink(root_ / "nvme0n1", root_ / "md0/slaves/nvme0n1");
  fs::create_symlink(root_ / "nvme1n1/nvme1n1p1", root_ / "md0/slaves/nvme1n1p1");
  fs::create_symlink(root_ / "md0", root_ / "dm-0/slaves/md0");
  EXPECT_EQ(of("dm-0"), (std::vector<std::string>{"Samsung SSD 990 PRO 2TB", "WD_BLACK SN850X 2000GB"}));
}

TEST_F(DriveModels, AreNoneWhereTheKernelNamesNone) {
  fs::create_directories(root_ / "vda");
  EXPECT_TRUE(of("vda").empty());
  EXPECT_TRUE(of("absent").empty());
}

}  // namespace
}  // namespace sluice::train
