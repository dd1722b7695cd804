#include "runtime/train/stop_request.h"

#include <unistd.h>

#include <atomic>
#include <string_view>

#include "runtime/core/console.h"

namespace sluice::train {
namespace {

std::atomic<int> asked = 0;
static_assert(std::atomic<int>::is_always_lock_free);
constexpr std::string_view kCheckpoint =
    "\nstopping after this step, with a checkpoint, or now where it waits for room; once more stops at once\n";
constexpr std::string_view kNothing = "\nstopping after this step; once more stops at once\n";
std::atomic<bool> keeps_checkpoint = true;

void note(int signal) {
  asked = signal;
  const std::string_view text = keeps_checkpoint ? kCheckpoint : kNothing;
  if (!is_read(STDERR_FILENO, 0)) return;
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

StopRequest::StopRequest(Keeps keeps) {
  asked = 0;
  keeps_checkpoint = keeps == Keeps::checkpoint;
  struct sigaction action {};
  action.sa_handler = note;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, &interrupt_before_);
  sigaction(SIGTERM, &action, &terminate_before_);
}

StopRequest::~StopRequest() {
  sigaction(SIGINT, &interrupt_before_, nullptr);
  sigaction(SIGTERM, &terminate_before_, nullptr);
}

int StopRequest::signal() const { return asked; }
int StopRequest::noted() { return asked; }

IgnoredSignals::IgnoredSignals() {
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before_[i]);
}

IgnoredSignals::~IgnoredSignals() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

}  // namespace sluice::train
