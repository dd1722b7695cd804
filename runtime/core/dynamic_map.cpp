#include "runtime/core/dynamic_map.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/core/check.h"

namespace sluice {
namespace {

// torch.linspace's arithmetic: each point from the nearer end, rounded once.
std::vector<float> fractions(int points) {
  const float begin = 0.1f, end = 1.0f, step = (end - begin) / static_cast<float>(points - 1);
  std::vector<float> values;
  for (int i = 0; i < points; ++i) {
    const bool first_half = i < points / 2;
    const double from_end = static_cast<double>(step) * (first_half ? i : points - 1 - i);
    values.push_back(
        static_cast<float>(first_half ? static_cast<double>(begin) + from_end : static_cast<double>(end) - from_end));
  }
  return values;
}

// Zero, one, and seven decades; the k-th has 2^k means of neighbouring fractions of each sign, or 2^(k+1) of the one.
std::array<float, 256> make_values(DynamicMap map) {
  const bool with_sign = map == DynamicMap::with_sign;
  std::vector<float> all = {0.0f, 1.0f};
  for (int decade = 0; decade < 7; ++decade) {
    const auto scale = static_cast<float>(std::pow(10.0, decade - 6));
    const std::vector<float> points = fractions((1 << (decade + (with_sign ? 0 : 1))) + 1);
    for (size_t i = 0; i + 1 < points.size(); ++i) {
      const float mean = (points[i] + points[i + 1]) / 2.0f;
      all.push_back(scale * mean);
      if (with_sign) all.push_back(-scale * mean);
    }
  }
  SLUICE_CHECK(all.size() == 256, "a byte's worth of values");
  std::sort(all.begin(), all.end());
  std::array<float, 256> values{};
  std::copy(all.begin(), all.end(), values.begin());
  return values;
}

DynamicCodes make_codes(DynamicMap map) {
  const std::array<float, 256>& values = dynamic_values(map);
  DynamicCodes codes{};
  size_t code = 0;
  for (int step = 0; step < kDynamicSteps; ++step) {
    const float value = -1.0f + 2.0f * static_cast<float>(step) / static_cast<float>(kDynamicSteps - 1);
    while (code + 1 < values.size() && 0.5f * (values[code] + values[code + 1]) < value) ++code;
    codes[static_cast<size_t>(step)] = static_cast<uint8_t>(code);
  }
  return codes;
}

}  // namespace

const std::array<float, 256>& dynamic_values(DynamicMap map) {
  static const std::array<float, 256> with_sign = make_values(DynamicMap::with_sign);
  static const std::array<float, 256> unsigned_only = make_values(DynamicMap::unsigned_only);
  return map == DynamicMap::with_sign ? with_sign : unsigned_only;
}

const DynamicCodes& dynamic_codes(DynamicMap map) {
  static const DynamicCodes with_sign = make_codes(DynamicMap::with_sign);
  static const DynamicCodes unsigned_only = make_codes(DynamicMap::unsigned_only);
  return map == DynamicMap::with_sign ? with_sign : unsigned_only;
}

}  // namespace sluice
