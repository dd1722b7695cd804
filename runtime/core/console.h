// Lines for people from a run that must go on whoever reads them: nobody, a terminal that was closed, or a pipe whose
// reader sleeps. A line that cannot be written is dropped; what must be kept is in files.
#pragma once

#include <atomic>
#include <mutex>
#include <string>

namespace sluice {

// Any thread.
class Console {
 public:
  explicit Console(int descriptor) : descriptor_(descriptor) {}
  // The line and its end. Waits for a reader that does not read for a second at most, and not again until it reads.
  void say(const std::string& line);

 private:
  std::mutex mutex_;
  int descriptor_;
  int64_t dropped_ = 0;  // since the last line that was written
};

// Whether a write of some bytes would not block, after at most that time. May be called in a signal's handler.
bool is_read(int descriptor, int milliseconds);

}  // namespace sluice
