#include "runtime/core/live_line.h"

#include <unistd.h>

namespace sluice {
namespace {

constexpr std::chrono::milliseconds kBetweenDraws(100);
constexpr const char* kWipe = "\r\033[K";

// A shell that has its terminal back would have its prompt painted over. Not the shell's own terminal: nobody's.
bool in_foreground(int descriptor) {
  const pid_t group = tcgetpgrp(descriptor);
  return group < 0 || group == getpgrp();
}

}  // namespace

LiveLine::LiveLine(int descriptor) : descriptor_(descriptor), draws_(is_terminal(descriptor)), stream_(descriptor) {}

LiveLine::~LiveLine() { clear(); }

void LiveLine::draw(const std::function<std::string(int columns)>& text) {
  if (!draws_) return;
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + kBetweenDraws;
  // The last column stays free: in it some terminals go on to the next line.
  text_ = text(columns_of(descriptor_) - 1);
  redraw();
}

void LiveLine::clear() {
  const std::lock_guard lock(mutex_);
  wipe();
  text_.clear();
  next_ = {};
}

void LiveLine::wipe() {
  if (drawn_ && in_foreground(descriptor_)) stream_.write(kWipe, 0);
  drawn_ = false;
}

void LiveLine::redraw() {
  if (text_.empty() || !in_foreground(descriptor_)) return;
  // What is left of the last text is wiped behind the new one: wiped before, the line would flicker.
  stream_.write("\r" + text_ + "\033[K", 0);
  drawn_ = true;
}

}  // namespace sluice
