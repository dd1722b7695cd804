// Programs beside ours: what they get of us, how they end, and what a process at its limits says of one.
#include "runtime/train/child_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

// Not looked at yet: UBSan's look at an object takes descriptors of its own.
std::exception_ptr refusal_of(const std::vector<std::string>& command) {
  try {
    const ChildProcess child(command, {});
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}
std::string message_of(const std::exception_ptr& refusal) {
  if (refusal == nullptr) return "started";
  try {
    std::rethrow_exception(refusal);
  } catch (const SetupError& error) {
    return error.error().message;
  }
}

void read_all(ChildProcess& child) {
  while (child.read_more()) {
  }
}

TEST(ChildProcess, has_our_environment_with_what_is_set_anew) {
  ::setenv("SLUICE_CHILD_TEST", "ours", 1);
  ::setenv("SLUICE_CHILD_TEST_TOO", "kept", 1);
  ChildProcess child({"sh", "-c", "env | grep ^SLUICE_CHILD_TEST | LC_ALL=C sort"},
                     {"SLUICE_CHILD_TEST=anew", "SLUICE_CHILD_TEST_NEW=1"});
  read_all(child);
  ::unsetenv("SLUICE_CHILD_TEST");
  ::unsetenv("SLUICE_CHILD_TEST_TOO");
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(child.output, "SLUICE_CHILD_TEST=anew\nSLUICE_CHILD_TEST_NEW=1\nSLUICE_CHILD_TEST_TOO=kept\n");
}

TEST(ChildProcess, tells_how_it_ended_and_takes_no_signal_afterwards) {
  ChildProcess child({"sh", "-c", "echo said; echo wrong >&2; exit 7"}, {});
  read_all(child);
  EXPECT_EQ(child.output, "said\n");
  EXPECT_EQ(child.errors, "wrong\n");
  EXPECT_FALSE(child.read_more());
  EXPECT_EQ(child.wait(), 7);
  child.send(SIGKILL);
  EXPECT_EQ(child.wait(), 7);
}

TEST(ChildProcess, is_reached_by_a_signal_while_it_runs) {
  ChildProcess child({"cat"}, {});
  child.send(SIGTERM);
  read_all(child);
  EXPECT_EQ(child.wait(), -SIGTERM);
}

TEST(ChildProcess, that_reads_no_more_is_an_answer_and_no_signal) {
  ChildProcess child({"true"}, {});
  EXPECT_EQ(child.wait(), 0);
  EXPECT_FALSE(child.write("anyone?"));
}

// Of a program that works slowly with more than its pipes hold, while signals come: whenever one does, nothing is lost.
TEST(ChildProcess, loses_nothing_to_signals) {
  struct sigaction quiet {
  }, before{};
  quiet.sa_handler = [](int) {};  // without SA_RESTART: a call that waits ends with EINTR
  sigaction(SIGALRM, &quiet, &before);
  const itimerval often{{0, 2000}, {0, 2000}}, never{};
  setitimer(ITIMER_REAL, &often, nullptr);
  const std::string text(size_t{1} << 20, 'x');
  int code = -1;
  std::string output;
  bool written = false;
  {
    ChildProcess child({"sh", "-c", "sleep 0.05; wc -c; sleep 0.05; exec >&- 2>&-; sleep 0.05; exit 5"}, {});
    written = child.write(text);
    child.close_input();
    read_all(child);
    code = child.wait();
    output = child.output;
  }
  setitimer(ITIMER_REAL, &never, nullptr);
  sigaction(SIGALRM, &before, nullptr);
  EXPECT_TRUE(written);
  EXPECT_EQ(std::atoll(output.c_str()), int64_t{1} << 20) << output;
  EXPECT_EQ(code, 5);
}

class ChildProcessAtItsLimit : public testing::Test {
 protected:
  void SetUp() override { getrlimit(RLIMIT_NOFILE, &before_); }
  void TearDown() override { setrlimit(RLIMIT_NOFILE, &before_); }
  // Every descriptor below the limit is open; so many are given back.
  static std::vector<int> all_but(size_t free) {
    std::vector<int> taken;
    for (int fd; (fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) taken.push_back(fd);
    for (; free > 0; --free, taken.pop_back()) ::close(taken.back());
    return taken;
  }
  static int64_t open_now() {
    const std::filesystem::directory_iterator files("/proc/self/fd");
    return std::distance(begin(files), end(files));
  }

  struct rlimit before_ {};
};

// A channel for each of its three streams takes two descriptors.
TEST_F(ChildProcessAtItsLimit, is_refused_wherever_descriptors_run_out_and_leaks_none) {
  const int64_t open_before = open_now();
  const struct rlimit small { 64, before_.rlim_max };
  setrlimit(RLIMIT_NOFILE, &small);
  for (size_t free = 0; free < 6; ++free) {
    const std::vector<int> taken = all_but(free);
    const std::exception_ptr refusal = refusal_of({"true"});
    for (const int fd : taken) ::close(fd);
    EXPECT_EQ(message_of(refusal), "cannot start true: Too many open files") << free;
    EXPECT_EQ(open_now(), open_before) << free;
  }
  const std::vector<int> taken = all_but(6);
  const std::exception_ptr refusal = refusal_of({"true"});
  for (const int fd : taken) ::close(fd);
  EXPECT_EQ(message_of(refusal), "started");
  EXPECT_EQ(open_now(), open_before);
}

TEST_F(ChildProcessAtItsLimit, is_refused_where_it_is_not_there_and_leaks_nothing) {
  const int64_t open_before = open_now();
  EXPECT_EQ(message_of(refusal_of({"/no/such/program"})), "cannot start /no/such/program: No such file or directory");
  EXPECT_EQ(open_now(), open_before);
}

}  // namespace
}  // namespace sluice::train
