// Units of a machine file: "1.7 GB/s", "24 GiB", "12 us". No number stands without one.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::train {

struct Unit {
  std::string_view name;
  double factor;
};

struct Quantity {
  std::string_view what;
  std::string_view example;
  std::span<const Unit> written;  // from the largest; the first that leaves a number of at least 1 is written
  std::span<const Unit> known;    // read beside those
  double smallest = 0;            // above 0, in base units

  std::vector<std::string_view> unit_names() const;
  std::optional<double> factor_of(std::string_view unit) const;
};

extern const Quantity kRate;       // bytes per second
extern const Quantity kFlopsRate;  // FLOPs per second
extern const Quantity kBytes;
extern const Quantity kTime;       // microseconds
extern const Quantity kEndurance;  // terabytes
extern const Quantity kShare;      // of one

// Six digits.
std::string digits(double number);
std::string text_of(const Quantity& quantity, double value);
// Three digits, for people.
std::string short_text_of(const Quantity& quantity, double value);

// "1, 2 or 3".
std::string listed(const std::vector<std::string_view>& names);

}  // namespace sluice::train
