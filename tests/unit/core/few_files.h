// A process that may open only a few files more, whatever it was started with: closed streams and descriptors that its
// parent left open change nothing.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "runtime/core/check.h"

namespace sluice {

// While it lives, `more` files can be opened, and no other.
class FewFiles {
 public:
  explicit FewFiles(int more) {
    SLUICE_CHECK(getrlimit(RLIMIT_NOFILE, &before_) == 0, "the limit of open files");
    const rlimit few{std::min<rlim_t>(kLimit, before_.rlim_max), before_.rlim_max};
    SLUICE_CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0, "a lower limit of open files");
    for (int file; (file = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) fill_.push_back(file);
    SLUICE_CHECK(static_cast<int>(fill_.size()) >= more, "fewer descriptors in use than the limit");
    for (; more > 0; --more) close_last();
  }
  ~FewFiles() {
    while (!fill_.empty()) close_last();
    setrlimit(RLIMIT_NOFILE, &before_);
  }
  FewFiles(const FewFiles&) = delete;
  FewFiles& operator=(const FewFiles&) = delete;

 private:
  static constexpr rlim_t kLimit = 256;

  void close_last() {
    close(fill_.back());
    fill_.pop_back();
  }

  rlimit before_{};
  std::vector<int> fill_;
};

}  // namespace sluice
