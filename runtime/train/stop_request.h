// What signals mean to a run: SIGINT and SIGTERM (Ctrl-C, a batch system's time limit) are a wish to stop after the
// step that runs; SIGHUP, SIGPIPE and SIGXFSZ are none.
#pragma once

#include <array>
#include <csignal>

namespace sluice::train {

// While it lives, the first of either signal is only noted; the next one of the same kind ends the process at once. One
// per process; any thread may be interrupted.
class StopRequest {
 public:
  enum class Keeps { checkpoint, nothing };  // of the run that is asked, for the word that the user gets
  explicit StopRequest(Keeps keeps = Keeps::checkpoint);
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  int signal() const;  // SIGINT, SIGTERM, or 0 when nobody asked
  // The same from anywhere, any thread; 0 before the first StopRequest of the process.
  static int noted();

 private:
  struct sigaction interrupt_before_ {
  }, terminate_before_{};
};

// While it lives, a run goes on when its terminal is closed (as under nohup) and when nobody reads what it prints; a
// file larger than the limit allows is an error of that file. One per process; children inherit it.
class IgnoredSignals {
 public:
  IgnoredSignals();
  ~IgnoredSignals();
  IgnoredSignals(const IgnoredSignals&) = delete;
  IgnoredSignals& operator=(const IgnoredSignals&) = delete;

 private:
  static constexpr std::array kSignals = {SIGHUP, SIGPIPE, SIGXFSZ};
  std::array<struct sigaction, kSignals.size()> before_{};
};

}  // namespace sluice::train
