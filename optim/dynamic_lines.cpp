#include "optim/dynamic_lines.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "runtime/core/check.h"

namespace sluice::optim {
namespace {

constexpr int kMiddle = kDynamicSteps / 2;

// Codes of the positive side, counted from that of zero.
class Fit {
 public:
  explicit Fit(DynamicMap map)
      : codes_(dynamic_codes(map)), with_sign_(map == DynamicMap::with_sign), zero_(with_sign_ ? 127 : 0) {}

  DynamicLines run() {
    int end = 0;
    while (end < kMiddle && code(end) < 2 * width(kDynamicDecades + 1) - 1 + (with_sign_ ? 1 : 0)) ++end;
    lines_.top = distance(end) - 0.5f;
    for (int step = 0; step < 64; ++step) lines_.first_codes[step] = static_cast<uint8_t>(code(step));
    for (int d = 0; d < kDynamicDecades; ++d) {
      const int decade = kDynamicDecades + 1 - d, first_code = width(decade) - (with_sign_ ? 0 : 1);
      const int last_code = first_code + width(decade) - 1;
      const auto at = static_cast<size_t>(d);
      lines_.last[at] = static_cast<float>(last_code);
      int begin = 0;
      while (begin < end && d + 1 < kDynamicDecades && code(begin) < first_code) ++begin;
      lines_.border[at] = distance(end) - 0.5f;
      fit(at, decade, first_code, begin, end);
      end = begin;
    }
    return lines_;
  }

 private:
  int code(int step) const { return codes_[static_cast<size_t>(kMiddle + step)] - zero_; }
  // Of a decade, in codes.
  int width(int decade) const { return 1 << (decade + (with_sign_ ? 0 : 1)); }
  static float distance(int step) { return static_cast<float>(step) + 0.5f; }

  // A decade's values are evenly spaced over nine tenths of it. The exact line can be a rounding off at a step or two.
  void fit(size_t at, int decade, int first_code, int begin, int end) {
    const double values_per_step = 2.0 / (kDynamicSteps - 1), span = 0.9 * std::pow(10.0, decade - 6);
    lines_.slope[at] = static_cast<float>(width(decade) / span * values_per_step);
    const double intercept = first_code - width(decade) / 9.0;
    for (int attempt = 0; attempt < 1000; ++attempt) {
      const double moved = (attempt % 2 == 0 ? 1e-6 : -1e-6) * attempt;
      lines_.begin[at] = static_cast<float>(intercept + moved);
      if (holds(at, begin, end)) return;
    }
    SLUICE_CHECK(false, "the codes of a decade lie on a line");
  }
  bool holds(size_t at, int begin, int end) const {
    for (int step = begin; step < end; ++step) {
      const float on_line = std::fma(lines_.slope[at], distance(step), lines_.begin[at]);
      if (static_cast<int>(std::min(on_line, lines_.last[at])) != code(step)) return false;
    }
    return true;
  }

  const DynamicCodes& codes_;
  const bool with_sign_;
  const int zero_;
  DynamicLines lines_;
};

DynamicPlanes make_planes(DynamicMap map) {
  DynamicPlanes planes;
  for (size_t plane = 0; plane < 4; ++plane)
    for (size_t code = 0; code < 256; ++code)
      planes.bytes[plane][code] =
          static_cast<uint8_t>(std::bit_cast<uint32_t>(dynamic_values(map)[code]) >> (8 * plane));
  return planes;
}

}  // namespace

const DynamicPlanes& dynamic_planes(DynamicMap map) {
  static const DynamicPlanes with_sign = make_planes(DynamicMap::with_sign);
  static const DynamicPlanes unsigned_only = make_planes(DynamicMap::unsigned_only);
  return map == DynamicMap::with_sign ? with_sign : unsigned_only;
}

const DynamicLines& dynamic_lines(DynamicMap map) {
  static const DynamicLines with_sign = Fit(DynamicMap::with_sign).run();
  static const DynamicLines unsigned_only = Fit(DynamicMap::unsigned_only).run();
  return map == DynamicMap::with_sign ? with_sign : unsigned_only;
}

}  // namespace sluice::optim
