#include "runtime/core/units.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace sluice {

std::string to_string(Bytes bytes) {
  static constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes.count);
  size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text;
}

std::string to_string(Microseconds time) {
  const double seconds = time.count / 1e6;
  char text[64];
  if (seconds >= 3600) {
    const auto minutes = static_cast<long long>(std::llround(seconds / 60));
    std::snprintf(text, sizeof text, "%lld h %02lld min", minutes / 60, minutes % 60);
  } else if (seconds >= 60) {
    const auto whole = static_cast<long long>(std::llround(seconds));
    std::snprintf(text, sizeof text, "%lld min %02lld s", whole / 60, whole % 60);
  } else if (seconds >= 1) {
    std::snprintf(text, sizeof text, "%.2f s", seconds);
  } else if (seconds >= 1e-3) {
    std::snprintf(text, sizeof text, "%.1f ms", seconds * 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.0f us", seconds * 1e6);
  }
  return text;
}

}  // namespace sluice
