// One line at the bottom of a terminal that is drawn again in place, and whatever else is said above it.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <string>

#include "runtime/core/patient_stream.h"

namespace sluice {

// Any thread.
class LiveLine {
 public:
  // Draws on a terminal that knows escape sequences, while this process is in its foreground; else never. -1: never.
  explicit LiveLine(int descriptor);
  ~LiveLine();  // clears
  LiveLine(const LiveLine&) = delete;
  LiveLine& operator=(const LiveLine&) = delete;

  bool draws() const { return draws_; }
  int descriptor() const { return descriptor_; }
  // `text`: of at most so many columns. Ten times a second at most: what comes sooner is not drawn. Waits for nobody.
  void draw(const std::function<std::string(int columns)>& text);
  void clear();

  // Clears the line while `write` writes other lines, and draws it again.
  template <class Write>
  void above(const Write& write) {
    const std::lock_guard lock(mutex_);
    wipe();
    write();
    redraw();
  }

 private:
  void wipe();
  void redraw();

  std::mutex mutex_;
  const int descriptor_;
  const bool draws_;
  PatientStream stream_;
  std::string text_;  // empty: there is no line
  bool drawn_ = false;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace sluice
