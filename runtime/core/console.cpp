#include "runtime/core/console.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

namespace sluice {
namespace {

constexpr int kPatienceMs = 1000;
// A pipe that has room at all has room for that (pipe(7), PIPE_BUF).
constexpr size_t kWriteBytesMax = 4096;

// False when it was not written to its end.
bool write_all(int descriptor, std::string_view text, int patience_ms) {
  while (!text.empty()) {
    if (!is_read(descriptor, patience_ms)) return false;
    const ssize_t written = ::write(descriptor, text.data(), std::min(text.size(), kWriteBytesMax));
    if (written < 0 && errno != EINTR) return false;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace

bool is_read(int descriptor, int milliseconds) {
  pollfd stream{descriptor, POLLOUT, 0};
  int ready;
  do ready = poll(&stream, 1, milliseconds);
  while (ready < 0 && errno == EINTR);
  return ready > 0 && (stream.revents & POLLOUT) != 0;
}

void Console::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  const std::string gap = dropped_ > 0 ? "(" + std::to_string(dropped_) + " lines that nobody read)\n" : "";
  write_all(descriptor_, gap + line + "\n", dropped_ > 0 ? 0 : kPatienceMs) ? void(dropped_ = 0) : void(++dropped_);
}

}  // namespace sluice
