// Always-on invariant checks for programmer's mistakes: print where and why, then abort.
// Bad input and failed I/O are not programmer's mistakes: see result.h.
#pragma once

#include <source_location>
#include <string_view>

namespace sluice {

[[noreturn]] void check_failed(std::string_view condition, std::string_view message, std::source_location where);

}  // namespace sluice

#define SLUICE_CHECK(condition, message)                                              \
  do {                                                                                \
    if (!(condition)) [[unlikely]]                                                    \
      ::sluice::check_failed(#condition, (message), std::source_location::current()); \
  } while (false)
