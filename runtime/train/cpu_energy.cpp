#include "runtime/train/cpu_energy.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <system_error>

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

std::optional<uint64_t> number_in(const fs::path& file) {
  std::ifstream stream(file);
  uint64_t value = 0;
  if (stream >> value) return value;
  return std::nullopt;
}

std::string word_in(const fs::path& file) {
  std::ifstream stream(file);
  std::string word;
  stream >> word;
  return word;
}

// Packages, and what they do not contain; their cores and graphics are in the package's figure.
bool counts(const fs::path& zone) {
  const std::string name = word_in(zone / "name");
  return name.starts_with("package") || name == "dram";
}

}  // namespace

CpuEnergy::CpuEnergy(const fs::path& root) {
  const fs::path powercap = root / "sys/class/powercap";
  std::error_code ignored;
  bool refused = false;
  for (const fs::directory_entry& zone : fs::directory_iterator(powercap, ignored)) {
    if (!counts(zone.path())) continue;
    const std::optional<uint64_t> now = number_in(zone.path() / "energy_uj");
    const std::optional<uint64_t> range = number_in(zone.path() / "max_energy_range_uj");
    if (now && range)
      counters_.push_back({zone.path() / "energy_uj", *range, *now});
    else
      refused = true;
  }
  if (refused) {
    // A part of the sum would pass for the whole.
    counters_.clear();
    why_not_ = "the processor's counters in " + powercap.string() + " are readable by root only";
  } else if (counters_.empty()) {
    why_not_ = "this host shows no energy counters of its processor (no RAPL in " + powercap.string() + ")";
  }
}

double CpuEnergy::joules() {
  for (Counter& counter : counters_) {
    const uint64_t now = number_in(counter.file).value_or(counter.last);
    const uint64_t drawn = now >= counter.last ? now - counter.last : counter.range - counter.last + now;
    joules_ += static_cast<double>(drawn) / 1e6;
    counter.last = now;
  }
  return joules_;
}

}  // namespace sluice::train
