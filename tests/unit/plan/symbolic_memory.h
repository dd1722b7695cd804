// Memory as the reference interpreter sees it: for every page a hash of what computed it and of all that went in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sluice::plan {

inline constexpr int64_t kPageBytes = 4096;

struct Page {
  uint64_t value = 0;
  int64_t valid = kPageBytes;  // so many of its first bytes are what `value` says
  bool operator==(const Page&) const = default;
};
using Pages = std::vector<Page>;

inline uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xff51afd7ed558ccdu;
  x ^= x >> 32;
  return x * 0xc4ceb9fe1a85ec53u;
}
template <class... More>
uint64_t mix(uint64_t a, uint64_t b, More... more) {
  return mix(mix(a, b), static_cast<uint64_t>(more)...);
}
inline uint64_t digest(const Pages& pages) {
  uint64_t all = pages.size();
  for (const Page& page : pages) all = mix(all, page.value);
  return all;
}
inline void fill(Pages& pages, uint64_t what) {
  for (size_t p = 0; p < pages.size(); ++p) pages[p] = {mix(what, p)};
}

}  // namespace sluice::plan
