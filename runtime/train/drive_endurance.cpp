#include "runtime/train/drive_endurance.h"

#include <array>
#include <regex>
#include <string_view>

namespace sluice::train {
namespace {

struct Rating {
  std::string_view model;  // how the kernel's name begins
  double terabytes;
};
// All figures: datasheets. Families that rate each size alike, for each TB that the name tells: 600 TB for 1 TB.
constexpr std::array<Rating, 4> kPerTerabyte = {{{"Samsung SSD 970 EVO Plus ", 600},
                                                 {"Samsung SSD 980 PRO ", 600},
                                                 {"Samsung SSD 990 PRO ", 600},
                                                 {"WD_BLACK SN850X ", 600}}};
// P5510 of 3.84 and 7.68 TB: one whole write a day for five years.
constexpr std::array<Rating, 2> kModels = {{{"INTEL SSDPF2KX038T", 7008}, {"INTEL SSDPF2KX076T", 14016}}};

}  // namespace

std::optional<double> rated_terabytes(const std::string& model) {
  for (const Rating& each : kModels)
    if (model.starts_with(each.model)) return each.terabytes;
  static const std::regex size("([0-9]+)(GB|TB)");
  for (const Rating& family : kPerTerabyte) {
    const std::string rest = model.starts_with(family.model) ? model.substr(family.model.size()) : "";
    if (std::smatch found; std::regex_search(rest, found, size))
      return family.terabytes * std::stod(found[1]) / (found[2] == "GB" ? 1000 : 1);
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

}  // namespace sluice::train
