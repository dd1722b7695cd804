#include "runtime/train/open_files.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <limits>
#include <string>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

// Rings, events, the text process, a trace.
constexpr int64_t kReserve = 24;

int64_t open_now() {
  std::error_code unknown;
  const std::filesystem::directory_iterator files("/proc/self/fd", unknown);
  return unknown ? 0 : std::distance(begin(files), end(files));
}

}  // namespace

int64_t OpenFiles::with(int64_t more) const { return now + more + kReserve; }

OpenFiles open_files() {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  const auto count = [](rlim_t files) {
    constexpr auto kMost = static_cast<rlim_t>(std::numeric_limits<int64_t>::max());
    return static_cast<int64_t>(std::min(files, kMost));  // RLIM_INFINITY
  };
  return {open_now(), count(limit.rlim_cur), count(limit.rlim_max)};
}

void allow_open_files(int64_t more) {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const auto wanted = static_cast<rlim_t>(open_files().with(more));
  if (limit.rlim_cur >= wanted) return;
  const std::string need = "this job has up to " + std::to_string(wanted) +
                           " files open at a time, and `ulimit -n` allows " + std::to_string(limit.rlim_cur);
  if (limit.rlim_max < wanted)
    throw SetupError(need + ", by its hard limit " + std::to_string(limit.rlim_max) + " at most",
                     "raise the hard limit (`ulimit -Hn`, limits.conf, LimitNOFILE), or merge the model's files");
  limit.rlim_cur = limit.rlim_max < 2 * wanted ? limit.rlim_max : 2 * wanted;
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
    std::fprintf(stderr, "note: %s: raised to %llu\n", need.c_str(), static_cast<unsigned long long>(limit.rlim_cur));
}

}  // namespace sluice::train
