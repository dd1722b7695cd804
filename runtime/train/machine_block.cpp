#include "runtime/train/machine_block.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "models/nearest_name.h"
#include "runtime/core/result.h"

namespace sluice::train {
namespace {

// In base units: bytes, FLOPs, microseconds.
constexpr double kQuantityMax = 1e18;
constexpr const char* kSources = "see configs/machine for examples, or run `sluice probe`";

std::optional<double> number_of(const DocumentValue& value) {
  if (!value.is_text()) return std::nullopt;
  double number = 0;
  const char* end = value.text.data() + value.text.size();
  const auto [stop, error] = std::from_chars(value.text.data(), end, number);
  if (error != std::errc() || stop != end || !std::isfinite(number)) return std::nullopt;
  return number;
}

// Of nothing, the parser gives the place of what comes next.
Position place_of(const DocumentValue& value, Position otherwise) {
  return value.is_null() ? otherwise : value.position;
}
Position place_of(const DocumentField& field) { return place_of(field.value, field.position); }

}  // namespace

MachineBlock::MachineBlock(std::string origin, std::string name, const DocumentValue& value, Position position,
                           const Keys& keys)
    : origin_(std::move(origin)), name_(std::move(name)), value_(value), position_(position) {
  if (value.kind != DocumentValue::Kind::block)
    throw SetupError(place(place_of(value, position)) + ": " + (name_.empty() ? "a machine" : name_) +
                         " must be a block of keys, not " + shown(value),
                     kSources);
  check_keys(keys);
}

const DocumentField* MachineBlock::find(std::string_view key) const {
  for (const DocumentField& field : value_.fields)
    if (field.key == key) return &field;
  return nullptr;
}

const DocumentField& MachineBlock::need(std::string_view key, std::string_view example) const {
  if (const DocumentField* field = find(key)) return *field;
  throw SetupError(
      place(position_) + ": " + (name_.empty() ? "the machine" : name_) + " has no '" + std::string(key) + "'",
      "add `" + std::string(key) + ": " + std::string(example) + "`; " + kSources);
}

double MachineBlock::quantity(std::string_view key, const Quantity& kind) const {
  return quantity_of(need(key, kind.example), kind, Least::above_zero);
}

double MachineBlock::quantity_or(std::string_view key, const Quantity& kind, double otherwise) const {
  const DocumentField* field = find(key);
  return field == nullptr ? otherwise : quantity_of(*field, kind, Least::zero);
}

double MachineBlock::number_or(std::string_view key, double otherwise) const {
  const DocumentField* field = find(key);
  if (field == nullptr) return otherwise;
  const std::optional<double> number = number_of(field->value);
  if (!number || *number < 0 || *number > kQuantityMax) refuse(*field, "a number from 0", "64");
  return *number;
}

double MachineBlock::share(const DocumentField& field) const {
  const std::optional<double> number = number_of(field.value);
  if (!number || *number <= 0 || *number > 1) refuse(field, "a share above 0 and at most 1", "0.8");
  return *number;
}

int MachineBlock::count(std::string_view key, std::string_view example) const {
  return count_of(need(key, example), example);
}

int MachineBlock::count_or(std::string_view key, int otherwise) const {
  const DocumentField* field = find(key);
  return field == nullptr ? otherwise : count_of(*field, "1");
}

int MachineBlock::count_of(const DocumentField& field, std::string_view example) const {
  const std::optional<double> number = number_of(field.value);
  if (!number || *number < 1 || *number > 1e6 || *number != std::floor(*number))
    refuse(field, "a whole number from 1", example);
  return static_cast<int>(*number);
}

std::string MachineBlock::text_or(std::string_view key, const std::string& otherwise) const {
  const DocumentField* field = find(key);
  if (field == nullptr) return otherwise;
  if (!field->value.is_text() || field->value.text.empty()) refuse(*field, "a text", "my machine");
  return field->value.text;
}

bool MachineBlock::flag_or(std::string_view key, bool otherwise) const {
  const DocumentField* field = find(key);
  if (field == nullptr) return otherwise;
  const std::optional<bool> truth =
      field->value.is_text() ? as_bool(field->value.text) : std::optional<bool>(std::nullopt);
  if (!truth) refuse(*field, "true or false", "true");
  return *truth;
}

const std::vector<DocumentValue>& MachineBlock::list(std::string_view key, std::string_view example) const {
  const DocumentField& field = need(key, example);
  if (field.value.kind != DocumentValue::Kind::list || field.value.items.empty())
    refuse(field, "a list with at least one entry", example);
  return field.value.items;
}

MachineBlock MachineBlock::block(const DocumentField& field, const Keys& keys) const {
  return {origin_, full(field.key), field.value, field.position, keys};
}

MachineBlock MachineBlock::entry(std::string_view list, size_t index, const DocumentValue& value,
                                 const Keys& keys) const {
  return {origin_, full(list) + "[" + std::to_string(index) + "]", value, value.position, keys};
}

void MachineBlock::refuse(const DocumentField& field, std::string_view expected, std::string_view example) const {
  throw SetupError(place(place_of(field)) + ": " + full(field.key) + " must be " + std::string(expected) + ", not " +
                       shown(field.value),
                   "for example: " + field.key + ": " + std::string(example));
}

std::string MachineBlock::place(Position at) const {
  return at.line == 0 ? origin_ : origin_ + ":" + std::to_string(at.line) + ":" + std::to_string(at.column);
}

std::string MachineBlock::full(std::string_view key) const {
  return (name_.empty() ? "" : name_ + ".") + std::string(key);
}

void MachineBlock::check_keys(const Keys& keys) const {
  for (size_t i = 0; i < value_.fields.size(); ++i) {
    const DocumentField& field = value_.fields[i];
    if (std::find(keys.begin(), keys.end(), field.key) == keys.end())
      throw SetupError(place(field.position) + ": unknown key '" + full(field.key) + "'",
                       "did you mean '" + models::nearest_name(field.key, keys) + "'? known here: " + listed(keys));
    for (size_t j = 0; j < i; ++j)
      if (value_.fields[j].key == field.key)
        throw SetupError(place(field.position) + ": '" + full(field.key) + "' is given twice, first in line " +
                             std::to_string(value_.fields[j].position.line),
                         "keep one");
  }
}

double MachineBlock::quantity_of(const DocumentField& field, const Quantity& kind, Least least) const {
  const std::string expected = std::string(kind.what) + " with its unit";
  if (!field.value.is_text()) refuse(field, expected, kind.example);
  const std::string& text = field.value.text;
  double number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number)) refuse(field, expected, kind.example);
  std::string unit(stop, text.data() + text.size());
  unit.erase(0, std::min(unit.find_first_not_of(' '), unit.size()));
  const double value = number * factor_of(field, kind, unit);
  // Sums and times of it must stay numbers, and a size one of bytes.
  if (value > kQuantityMax || (value > 0 && value < kind.smallest))
    throw SetupError(
        place(place_of(field)) + ": " + full(field.key) + " is " + shown(field.value) + ", which no machine has",
        "write what the machine does, or run `sluice probe`");
  if (value < 0 || (least == Least::above_zero && value == 0))
    throw SetupError(place(place_of(field)) + ": " + full(field.key) + " must be " +
                         (least == Least::zero ? "at least" : "above") + " 0, not " + shown(field.value),
                     "write what the machine does, or run `sluice probe`");
  return value;
}

double MachineBlock::factor_of(const DocumentField& field, const Quantity& kind, const std::string& unit) const {
  if (const std::optional<double> factor = kind.factor_of(unit)) return *factor;
  const std::vector<std::string_view> names = kind.unit_names();
  const std::string what = place(place_of(field)) + ": " + full(field.key) + ": " + shown(field.value);
  if (unit.empty())
    throw SetupError(what + " has no unit",
                     "for example: " + field.key + ": " + std::string(kind.example) + "; known: " + listed(names));
  throw SetupError(what + " has the unit '" + unit + "', which is not known here",
                   "did you mean '" + models::nearest_name(unit, names) + "'? known: " + listed(names));
}

}  // namespace sluice::train
