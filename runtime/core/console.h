// Lines for people from a run that must go on whoever reads them: nobody, a terminal that was closed, or a pipe whose
// reader sleeps. A line that cannot be written is dropped; what must be kept is in files.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "runtime/core/patient_stream.h"

namespace sluice {

class LiveLine;

// What tells that lines were dropped.
enum class GapText : uint8_t { words, json };

// Any thread.
class Console {
 public:
  // `live`: lines are said above that one; null: there is none. It must outlive this.
  explicit Console(int descriptor, LiveLine* live = nullptr, GapText gap = GapText::words)
      : live_(live), gap_(gap), stream_(descriptor) {}
  // The line and its end. Waits for a reader that does not read for a second at most, and not again until it reads.
  void say(const std::string& line);

 private:
  void write(const std::string& line);

  std::mutex mutex_;
  LiveLine* live_;
  const GapText gap_;
  PatientStream stream_;
  int64_t dropped_ = 0;  // since the last line that was written
};

}  // namespace sluice
