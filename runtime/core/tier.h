// Where bytes live (tier) and which queue works on them (lane). See design.md, "Vocabulary".
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace sluice {

enum class Tier : uint8_t { device, host, disk };
inline constexpr int kTierCount = 3;
constexpr std::string_view name_of(Tier tier) {
  constexpr std::array<std::string_view, kTierCount> names = {"device", "host", "disk"};
  return names[static_cast<size_t>(tier)];
}

// One ordered queue of work each. Ops of one lane start in schedule order.
enum class Lane : uint8_t { compute, h2d, d2h, read, write, optim };
inline constexpr int kLaneCount = 6;
constexpr std::string_view name_of(Lane lane) {
  constexpr std::array<std::string_view, kLaneCount> names = {"compute", "h2d", "d2h", "read", "write", "optim"};
  return names[static_cast<size_t>(lane)];
}

}  // namespace sluice
