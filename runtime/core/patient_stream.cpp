#include "runtime/core/patient_stream.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

namespace sluice {
namespace {

// A pipe that has room at all has room for that (pipe(7), PIPE_BUF).
constexpr size_t kWriteBytesMax = 4096;

// Its own description, as O_NONBLOCK on the one that we were given would be the shell's too.
int reopened(int descriptor) {
  if (isatty(descriptor) != 1) return -1;
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  return open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

}  // namespace

bool is_read(int descriptor, int milliseconds) {
  pollfd stream{descriptor, POLLOUT, 0};
  int ready;
  do ready = poll(&stream, 1, milliseconds);
  while (ready < 0 && errno == EINTR);
  return ready > 0 && (stream.revents & POLLOUT) != 0;
}

PatientStream::PatientStream(int descriptor) : descriptor_(descriptor), own_(reopened(descriptor)) {
  if (own_ >= 0) descriptor_ = own_;
}

PatientStream::~PatientStream() {
  if (own_ >= 0) close(own_);
}

bool PatientStream::write(std::string_view text, int patience_ms) {
  while (!text.empty()) {
    if (!is_read(descriptor_, patience_ms)) return false;
    const ssize_t written = ::write(descriptor_, text.data(), std::min(text.size(), kWriteBytesMax));
    if (written < 0 && errno == EAGAIN && patience_ms == 0) return false;
    if (written < 0 && errno != EINTR && errno != EAGAIN) return false;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

bool is_terminal(int descriptor) {
  const char* kind = std::getenv("TERM");
  return isatty(descriptor) == 1 && kind != nullptr && *kind != '\0' && std::strcmp(kind, "dumb") != 0;
}

int columns_of(int descriptor) {
  constexpr int kUsual = 80;
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsual;
}

}  // namespace sluice
