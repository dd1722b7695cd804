// What the processors of this host draw, as they count it themselves (Intel's and AMD's RAPL, through the kernel's
// powercap files).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace sluice::train {

// From its making on. All packages and their DRAM, whoever uses them. Not thread-safe.
class CpuEnergy {
 public:
  // `root`: where /sys is, for tests.
  explicit CpuEnergy(const std::filesystem::path& root = "/");

  // Empty when it is measured; else why not, for people.
  const std::string& why_not() const { return why_not_; }
  // Since the object was made, in joules; 0 where it is not measured. The counters begin anew after some hundred
  // kilojoules: to be called more often than that.
  double joules();

 private:
  struct Counter {
    std::filesystem::path file;
    uint64_t range = 0;  // microjoules after which it begins anew
    uint64_t last = 0;
  };
  std::vector<Counter> counters_;
  double joules_ = 0;
  std::string why_not_;
};

}  // namespace sluice::train
