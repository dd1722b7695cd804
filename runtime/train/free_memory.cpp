#include "runtime/train/free_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// The number behind `key` in a file of lines "key number".
std::optional<int64_t> value_of(const fs::path& file, const std::string& key) {
  std::ifstream lines(file);
  std::string name;
  int64_t value = 0;
  for (std::string rest; lines >> name >> value; std::getline(lines, rest))
    if (name == key) return value;
  return std::nullopt;
}

// Nothing for "max", or where there is no such file.
std::optional<int64_t> number_in(const fs::path& file) {
  std::ifstream stream(file);
  int64_t value = 0;
  if (stream >> value) return value;
  return std::nullopt;
}

int64_t left_in(const fs::path& cgroup) {
  constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
  const std::optional<int64_t> most = number_in(cgroup / "memory.max");
  if (!most) return kUnlimited;
  const int64_t used = number_in(cgroup / "memory.current").value_or(0);
  const int64_t reclaimable = value_of(cgroup / "memory.stat", "inactive_file").value_or(0) +
                              value_of(cgroup / "memory.stat", "active_file").value_or(0);
  return std::max<int64_t>(*most - used + reclaimable, 0);
}

// This process's and all above it; none where cgroups of version 2 are not in use.
std::vector<fs::path> cgroups_around(const fs::path& root) {
  std::vector<fs::path> around;
  std::ifstream lines(root / "proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("0::/")) continue;
    const fs::path mount = root / "sys/fs/cgroup";
    fs::path cgroup = line.substr(4);
    for (; !cgroup.empty(); cgroup = cgroup.parent_path()) around.push_back(mount / cgroup);
    around.push_back(mount);
    break;
  }
  return around;
}

}  // namespace

Bytes resident_bytes() {
  std::ifstream status("/proc/self/statm");
  int64_t total = 0, resident = 0;
  status >> total >> resident;
  return Bytes{resident * sysconf(_SC_PAGESIZE)};
}

Bytes free_memory(const fs::path& root) {
  const std::optional<int64_t> available = value_of(root / "proc/meminfo", "MemAvailable:");
  int64_t left = available ? *available << 10 : GiB(4).count;
  for (const fs::path& cgroup : cgroups_around(root)) left = std::min(left, left_in(cgroup));
  return {left};
}

std::optional<Bytes> memory_limit(const fs::path& root) {
  std::optional<Bytes> tightest;
  for (const fs::path& cgroup : cgroups_around(root))
    if (const auto most = number_in(cgroup / "memory.max"))
      tightest = std::min(Bytes{*most}, tightest.value_or(Bytes{*most}));
  return tightest;
}

}  // namespace sluice::train
