// A stream that people may read, or nobody: written to without waiting for them longer than is wanted.
#pragma once

#include <string_view>

namespace sluice {

// Whether a write of some bytes would not block, after at most that time. May be called in a signal's handler.
bool is_read(int descriptor, int milliseconds);

// Not thread-safe.
class PatientStream {
 public:
  // A terminal is opened once more, so that a write takes what there is room for and never waits for the rest.
  explicit PatientStream(int descriptor);
  ~PatientStream();
  PatientStream(const PatientStream&) = delete;
  PatientStream& operator=(const PatientStream&) = delete;

  // False when it was not written to its end: `patience_ms` passed in which nobody read.
  bool write(std::string_view text, int patience_ms);

 private:
  int descriptor_;
  int own_ = -1;
};

// A terminal that knows escape sequences: TERM is set, and not "dumb".
bool is_terminal(int descriptor);
// How wide it is now; 80 where it does not tell.
int columns_of(int descriptor);

}  // namespace sluice
