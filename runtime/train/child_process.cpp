#include "runtime/train/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "runtime/core/result.h"

extern char** environ;

namespace sluice::train {
namespace {

// Closed when the scope ends, unless taken.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }
  void set(int value) { value_ = value; }
  int take() { return std::exchange(value_, -1); }

 private:
  int value_;
};

struct Pipe {
  Descriptor ours, theirs;
};

[[noreturn]] void cannot_start(const std::string& program, int error) {
  throw SetupError("cannot start " + program + ": " + std::strerror(error),
                   "`make setup` prepares the Python side; SLUICE_PYTHON names another interpreter");
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (const std::string& text : texts) all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

std::string name_of_variable(const std::string& assignment) { return assignment.substr(0, assignment.find('=') + 1); }

// Ours, without what `changed` sets anew.
std::vector<std::string> whole_environment(const std::vector<std::string>& changed) {
  std::vector<std::string> all = changed;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    bool kept = true;
    for (const std::string& assignment : changed) kept = kept && !text.starts_with(name_of_variable(assignment));
    if (kept) all.push_back(text);
  }
  return all;
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& command, const std::vector<std::string>& environment) {
  // A socket for its input: writing to a program that has ended is then an error code, not a signal.
  Pipe in, out, err;
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) cannot_start(command[0], errno);
  in.ours.set(ends[0]);
  in.theirs.set(ends[1]);
  for (Pipe* pipe : {&out, &err}) {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) cannot_start(command[0], errno);
    pipe->ours.set(ends[0]);
    pipe->theirs.set(ends[1]);
  }
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in.theirs.get(), STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, out.theirs.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, err.theirs.get(), STDERR_FILENO);
  const std::vector<std::string> all_environment = whole_environment(environment);
  const int error = ::posix_spawnp(&process_, command[0].c_str(), &actions, nullptr, pointers(command).data(),
                                   pointers(all_environment).data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) cannot_start(command[0], error);
  input_ = in.ours.take();
  output_ = out.ours.take();
  errors_ = err.ours.take();
}

ChildProcess::~ChildProcess() {
  close_input();
  for (int* stream : {&output_, &errors_})
    if (*stream >= 0) ::close(std::exchange(*stream, -1));
  wait();
}

bool ChildProcess::write(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t sent = ::send(input_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (sent < 0 && errno != EINTR) return false;
    if (sent > 0) done += static_cast<size_t>(sent);
  }
  return true;
}

void ChildProcess::close_input() {
  if (input_ >= 0) ::close(std::exchange(input_, -1));
}

bool ChildProcess::read_more() {
  std::array<pollfd, 2> streams = {{{output_, POLLIN, 0}, {errors_, POLLIN, 0}}};  // a negative one is passed over
  if (output_ < 0 && errors_ < 0) return false;
  if (::poll(streams.data(), streams.size(), -1) < 0) return errno == EINTR;
  const auto drain = [](const pollfd& ready, int& stream, std::string& into) {
    if (ready.fd < 0 || ready.revents == 0) return;
    std::array<char, 1 << 16> buffer;
    const ssize_t count = ::read(stream, buffer.data(), buffer.size());
    if (count > 0) into.append(buffer.data(), static_cast<size_t>(count));
    if (count == 0 || (count < 0 && errno != EINTR)) ::close(std::exchange(stream, -1));
  };
  drain(streams[0], output_, output);
  drain(streams[1], errors_, errors);
  return output_ >= 0 || errors_ >= 0;
}

void ChildProcess::send(int signal) {
  if (process_ > 0) ::kill(process_, signal);
}

int ChildProcess::wait() {
  if (process_ > 0) {
    while (::waitpid(process_, &status_, 0) < 0 && errno == EINTR) {
    }
    process_ = -1;
  }
  return WIFEXITED(status_) ? WEXITSTATUS(status_) : -WTERMSIG(status_);
}

}  // namespace sluice::train
