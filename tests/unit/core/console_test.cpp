// A line for people never keeps a run waiting for long.
#include "runtime/core/console.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>

namespace sluice {
namespace {

class Pipe {
 public:
  Pipe() {
    EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0);
    EXPECT_GT(fcntl(ends_[1], F_SETPIPE_SZ, 4096), 0);
    EXPECT_EQ(fcntl(ends_[0], F_SETFL, O_NONBLOCK), 0);
  }
  ~Pipe() {
    close_reader();
    close(ends_[1]);
  }
  int writer() const { return ends_[1]; }
  void close_reader() {
    if (ends_[0] >= 0) close(ends_[0]);
    ends_[0] = -1;
  }
  void fill() const { EXPECT_EQ(write(ends_[1], std::string(4096, 'x').data(), 4096), 4096); }
  std::string read_all() const {
    std::string text(8192, '\0');
    const ssize_t got = read(ends_[0], text.data(), text.size());
    text.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return text;
  }

 private:
  int ends_[2] = {-1, -1};
};

double seconds_of(const auto& act) {
  const auto begin = std::chrono::steady_clock::now();
  act();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(Console, WritesALineWithItsEnd) {
  const Pipe pipe;
  Console(pipe.writer()).say("step 1");
  EXPECT_EQ(pipe.read_all(), "step 1\n");
}

TEST(Console, WaitsASecondForASleepingReaderAndNotAgainUntilItReads) {
  const Pipe pipe;
  pipe.fill();
  Console console(pipe.writer());
  EXPECT_LT(seconds_of([&] { console.say("step 1"); }), 5);
  EXPECT_LT(seconds_of([&] {
              for (int i = 0; i < 100; ++i) console.say("step");
            }),
            0.5);
  pipe.read_all();
  console.say("step 102");
  EXPECT_EQ(pipe.read_all(), "(101 lines that nobody read)\nstep 102\n");
  console.say("step 103");
  EXPECT_EQ(pipe.read_all(), "step 103\n");
}

TEST(Console, AReaderThatHasGoneCostsNothing) {
  Pipe pipe;
  pipe.close_reader();
  const auto handler = std::signal(SIGPIPE, SIG_IGN);
  Console console(pipe.writer());
  EXPECT_LT(seconds_of([&] {
              for (int i = 0; i < 100; ++i) console.say("step");
            }),
            0.5);
  std::signal(SIGPIPE, handler);
}

TEST(Console, AStreamThatIsClosedCostsNothing) {
  Console console(-1);
  EXPECT_LT(seconds_of([&] { console.say("step"); }), 5);
}

}  // namespace
}  // namespace sluice
