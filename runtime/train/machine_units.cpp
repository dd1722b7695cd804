#include "runtime/train/machine_units.h"

#include <cstdio>

namespace sluice::train {
namespace {

constexpr Unit kRateUnits[] = {{"TB/s", 1e12}, {"GB/s", 1e9}, {"MB/s", 1e6}, {"KB/s", 1e3}};
constexpr Unit kBinaryRateUnits[] = {{"TiB/s", 0x1p40}, {"GiB/s", 0x1p30}, {"MiB/s", 0x1p20}, {"KiB/s", 0x1p10}};
constexpr Unit kFlopsUnits[] = {{"PFLOP/s", 1e15}, {"TFLOP/s", 1e12}, {"GFLOP/s", 1e9}, {"MFLOP/s", 1e6}};
constexpr Unit kBytesUnits[] = {{"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}};
constexpr Unit kDecimalBytesUnits[] = {{"TiB", 0x1p40}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}};
constexpr Unit kTimeUnits[] = {{"s", 1e6}, {"ms", 1e3}, {"us", 1}, {"ns", 1e-3}};  // in microseconds
constexpr Unit kEnduranceUnits[] = {{"PB", 1e3}, {"TB", 1}, {"GB", 1e-3}};         // in terabytes
constexpr Unit kPercent[] = {{"%", 1e-2}};

}  // namespace

const Quantity kRate{"a rate", "7 GB/s", kRateUnits, kBinaryRateUnits, 1};
const Quantity kFlopsRate{"a rate", "165 TFLOP/s", kFlopsUnits, {}, 1};
const Quantity kBytes{"a size", "24 GiB", kBytesUnits, kDecimalBytesUnits, 1};
const Quantity kTime{"a time", "12 us", kTimeUnits, {}};
const Quantity kEndurance{"an amount", "600 TB", kEnduranceUnits, {}};
const Quantity kShare{"a share", "3.5 %", kPercent, {}};

std::string digits(double number) {
  char text[40];
  std::snprintf(text, sizeof text, "%.6g", number);
  return text;
}

namespace {

const Unit& unit_for(const Quantity& quantity, double value) {
  for (const Unit& candidate : quantity.written)
    if (value >= candidate.factor) return candidate;
  return quantity.written.back();
}

}  // namespace

std::string text_of(const Quantity& quantity, double value) {
  const Unit& unit = unit_for(quantity, value);
  return digits(value / unit.factor) + " " + std::string(unit.name);
}

std::string short_text_of(const Quantity& quantity, double value) {
  const Unit& unit = unit_for(quantity, value);
  char text[40];
  std::snprintf(text, sizeof text, "%.3g ", value / unit.factor);
  return text + std::string(unit.name);
}

std::vector<std::string_view> Quantity::unit_names() const {
  std::vector<std::string_view> names;
  for (const std::span<const Unit> units : {written, known})
    for (const Unit& unit : units) names.push_back(unit.name);
  return names;
}

std::optional<double> Quantity::factor_of(std::string_view unit) const {
  for (const std::span<const Unit> units : {written, known})
    for (const Unit& candidate : units)
      if (candidate.name == unit) return candidate.factor;
  return std::nullopt;
}

std::string listed(const std::vector<std::string_view>& names) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + std::string(names[i]);
  return text;
}

}  // namespace sluice::train
