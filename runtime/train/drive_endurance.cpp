#include "runtime/train/drive_endurance.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <string_view>

#include "runtime/core/result.h"
#include "runtime/train/swap_folders.h"

namespace sluice::train {
namespace {

struct Rating {
  std::string_view model;  // how the kernel's name begins
  double terabytes;
};
// All figures: datasheets, or reviews that quote them. Families that rate each size alike, for each TB that the name
// tells: 600 TB for 1 TB.
constexpr std::array<Rating, 6> kPerTerabyte = {{{"Samsung SSD 970 EVO Plus ", 600},
                                                 {"Samsung SSD 980 PRO ", 600},
                                                 {"Samsung SSD 990 PRO ", 600},
                                                 {"Samsung SSD 9100 PRO ", 600},
                                                 {"WD_BLACK SN770 ", 600},
                                                 {"WD_BLACK SN850X ", 600}}};
// Asked first. Intel's P5510 of 3.84 and 7.68 TB: one whole write a day for five years. Crucial's T500, P5 Plus and
// T705 by their part numbers, of those sizes for which a rating was found.
constexpr std::array<Rating, 8> kModels = {{{"INTEL SSDPF2KX038T", 7008},
                                            {"INTEL SSDPF2KX076T", 14016},
                                            {"WD_BLACK SN770 250GB", 200},
                                            {"CT500T500SSD", 300},
                                            {"CT1000T500SSD", 600},
                                            {"CT2000T500SSD", 1200},
                                            {"CT2000P5PSSD", 1200},
                                            {"CT1000T705SSD", 600}}};

// "1TB", "with Heatsink 500GB": the first number with a unit.
std::optional<double> terabytes_in(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789";
  for (size_t begin = text.find_first_of(kDigits); begin != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_not_of(kDigits, begin), text.size());
    double number = 0;
    const bool read = std::from_chars(text.data() + begin, text.data() + end, number).ec == std::errc();
    const std::string_view unit = text.substr(end, 2);
    if (read && unit == "TB") return number;
    if (read && unit == "GB") return number / 1000;
    begin = text.find_first_of(kDigits, end);
  }
  return std::nullopt;
}

}  // namespace

std::optional<double> rated_terabytes(const std::string& model) {
  for (const Rating& each : kModels)
    if (model.starts_with(each.model)) return each.terabytes;
  for (const Rating& family : kPerTerabyte) {
    if (!model.starts_with(family.model)) continue;
    if (const std::optional<double> size = terabytes_in(std::string_view(model).substr(family.model.size())))
      return family.terabytes * *size;
  }
  return std::nullopt;
}

std::optional<double> rated_terabytes(std::span<const std::string> models) {
  double sum = 0;
  for (const std::string& model : models) {
    const std::optional<double> rated = rated_terabytes(model);
    if (!rated) return std::nullopt;
    sum += *rated;
  }
  return models.empty() ? std::nullopt : std::optional(sum);
}

std::optional<double> rated_terabytes(std::span<const swap::DriveKind> paths) {
  double sum = 0;
  std::set<std::string> devices;
  for (const swap::DriveKind& path : paths) {
    const std::optional<double> rated = rated_terabytes(std::span<const std::string>(path.models));
    if (!rated) return std::nullopt;
    if (devices.insert(path.device).second) sum += *rated;
  }
  return paths.empty() ? std::nullopt : std::optional(sum);
}

Bytes rated_endurance_of(const std::vector<std::filesystem::path>& nvme_paths) {
  std::vector<swap::DriveKind> kinds;
  try {
    for (const std::filesystem::path& path : nvme_paths) kinds.push_back(swap::inspect_drive(nearest_existing(path)));
  } catch (const SetupError&) {
    return {};
  }
  return {static_cast<int64_t>(rated_terabytes(kinds).value_or(0) * 1e12)};
}

}  // namespace sluice::train
