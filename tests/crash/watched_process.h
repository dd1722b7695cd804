// A program with all its threads and children, stopped before and after each system call that may change a file.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace sluice::crash {

struct SystemCall {
  pid_t thread = 0;
  int64_t number = 0;
  std::array<uint64_t, 6> arguments{};

  // From the program's memory. Throw std::system_error.
  std::string text(size_t argument) const;
  void read(uint64_t address, void* into, size_t bytes) const;
};

class WatchedProcess {
 public:
  // `starts`: before the call; false ends everything by SIGKILL. `ends`: after it, with what it returned.
  struct Observer {
    std::function<bool(const SystemCall&)> starts;
    std::function<void(const SystemCall&, int64_t result)> ends;
  };
  // Through the kernel's seccomp filter, so that other calls run at full speed. io_uring is refused (EPERM): its writes
  // are no calls. Throws std::system_error.
  explicit WatchedProcess(const std::vector<std::string>& command);

  // Until the program and its children have ended. Returns the program's exit status as `waitpid` does; none when it
  // was ended by `starts`, or by a SIGALRM that this process got.
  std::optional<int> run(const Observer& observer);

 private:
  void stopped(pid_t thread, int status, const Observer& observer);
  void end_all();

  pid_t program_;
  std::map<pid_t, std::optional<SystemCall>> threads_;  // and the call that each is in
  bool ended_by_us_ = false;
};

}  // namespace sluice::crash
