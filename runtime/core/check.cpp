#include "runtime/core/check.h"

#include <cstdio>
#include <cstdlib>

namespace sluice {

void check_failed(std::string_view condition, std::string_view message, std::source_location where) {
  std::fprintf(stderr, "sluice: internal error at %s:%u in %s: %.*s\n  because not (%.*s)\n", where.file_name(),
               where.line(), where.function_name(), static_cast<int>(message.size()), message.data(),
               static_cast<int>(condition.size()), condition.data());
  std::fflush(stderr);
  std::abort();
}

}  // namespace sluice
