#include "runtime/train/free_memory.h"

#include <gtest/gtest.h>

#include <fstream>

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// A system of files as the kernel shows them.
class FreeMemory : public testing::Test {
 protected:
  FreeMemory() {
    fs::remove_all(root_);
    write("proc/meminfo", "MemTotal:  16384 kB\nMemFree:  100 kB\nMemAvailable:  8192 kB\n");
  }
  ~FreeMemory() override { fs::remove_all(root_); }

  void write(const fs::path& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  void limit(const fs::path& cgroup, const std::string& most, int64_t used, int64_t cached) const {
    const fs::path folder = "sys/fs/cgroup" / cgroup;
    write(folder / "memory.max", most + "\n");
    write(folder / "memory.current", std::to_string(used) + "\n");
    write(folder / "memory.stat", "anon 1\ninactive_file " + std::to_string(cached) + "\nactive_file 0\n");
  }

  const fs::path root_ = fs::temp_directory_path() / ("free_memory_test." + std::to_string(getpid()));
};

TEST_F(FreeMemory, IsWhatTheSystemHasAvailable) { EXPECT_EQ(free_memory(root_), MiB(8)); }

TEST_F(FreeMemory, IsGuessedAtWhereTheKernelDoesNotTell) {
  write("proc/meminfo", "MemTotal:  16384 kB\nMemFree:  100 kB\n");
  EXPECT_EQ(free_memory(root_), GiB(4));
  fs::remove(root_ / "proc/meminfo");
  EXPECT_EQ(free_memory(root_), GiB(4));
}

TEST_F(FreeMemory, OfAContainerThatTellsNoUseIsItsWholeLimit) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", "4194304\n");
  EXPECT_EQ(free_memory(root_), MiB(4));
}

TEST_F(FreeMemory, IsWhatTheContainerMayStillTake) {
  write("proc/self/cgroup", "0::/\n");
  limit("", "4194304", 2097152, 1048576);
  EXPECT_EQ(free_memory(root_), MiB(3));
}

TEST_F(FreeMemory, ObeysTheTightestLimitAround) {
  write("proc/self/cgroup", "1:name=systemd:/elsewhere\n0::/user/job\n");
  limit("user", "2097152", 0, 0);
  limit("user/job", "max", 123, 0);
  EXPECT_EQ(free_memory(root_), MiB(2));
}

TEST_F(FreeMemory, IsNothingBeyondTheLimit) {
  write("proc/self/cgroup", "0::/job\n");
  limit("job", "1024", 4096, 0);
  EXPECT_EQ(free_memory(root_), Bytes{0});
}

TEST_F(FreeMemory, LimitIsTheTightestAroundOrNone) {
  EXPECT_EQ(memory_limit(root_), std::nullopt);
  write("proc/self/cgroup", "0::/user/job\n");
  limit("user/job", "max", 0, 0);
  EXPECT_EQ(memory_limit(root_), std::nullopt);
  limit("user", "2097152", 0, 0);
  limit("user/job", "4194304", 0, 0);
  EXPECT_EQ(memory_limit(root_), MiB(2));
}

TEST_F(FreeMemory, OfThisProcessIsKnown) {
  EXPECT_GT(resident_bytes(), Bytes{0});
  EXPECT_GT(free_memory(), Bytes{0});
}

}  // namespace
}  // namespace sluice::train
