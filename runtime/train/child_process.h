// A program run beside us, spoken to through its standard input, output and errors.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace sluice::train {

// Not thread-safe. The destructor closes the program's input and waits for its end.
class ChildProcess {
 public:
  // `environment`: "NAME=value", beside our own. Throws SetupError when the program cannot be started.
  ChildProcess(const std::vector<std::string>& command, const std::vector<std::string>& environment);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // False when the program reads no more.
  bool write(const std::string& text);
  void close_input();

  // Waits until the program has written something and appends it below. False at the end of both streams.
  bool read_more();
  std::string output;
  std::string errors;

  // A signal for the program; nothing once it was waited for.
  void send(int signal);

  // Waits for the end. The exit code, or minus the signal that ended the program.
  int wait();

 private:
  pid_t process_ = -1;
  int input_ = -1, output_ = -1, errors_ = -1;
  int status_ = 0;
};

}  // namespace sluice::train
