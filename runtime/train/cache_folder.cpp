#include "runtime/train/cache_folder.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "models/op_timing.h"
#include "runtime/core/processor.h"
#include "runtime/core/result.h"
#include "runtime/core/units.h"

namespace sluice::train {

std::filesystem::path cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return std::filesystem::path(cache) / "sluice";
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] == 0)
    throw SetupError("neither XDG_CACHE_HOME nor HOME is set", "set one: what the machine can do is kept there");
  return std::filesystem::path(home) / ".cache" / "sluice";
}

// FNV-1a (Fowler, Noll, Vo), 64 bits.
std::string short_hash(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

std::string time_text(std::time_t time) {
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::optional<double> days_since(const std::string& time_text) {
  std::tm parts{};
  if (strptime(time_text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts) == nullptr) return std::nullopt;
  const double seconds = std::difftime(std::time(nullptr), timegm(&parts));
  return seconds < 0 ? std::nullopt : std::optional(seconds / 86400);
}

std::string host_identity() {
  // What the kernel keeps for itself differs a little from start to start.
  constexpr int64_t kStep = MiB(256).count;
  return processor_name() + "\n" + std::to_string(usable_cores()) + "\n" +
         std::to_string(sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE) / kStep) + "\n" +
         models::compute_library_version() + "\n";
}

}  // namespace sluice::train
