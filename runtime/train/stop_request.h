// SIGINT and SIGTERM (Ctrl-C, a batch system's time limit) as a wish to stop after the step that runs.
#pragma once

#include <csignal>

namespace sluice::train {

// While it lives, the first of either signal is only noted; the next one of the same kind ends the process at once. One
// per process; any thread may be interrupted.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  int signal() const;  // SIGINT, SIGTERM, or 0 when nobody asked

 private:
  struct sigaction interrupt_before_ {
  }, terminate_before_{};
};

}  // namespace sluice::train
