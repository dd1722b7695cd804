// The line that lives, on a terminal of the test's own: what a reader of it sees, and that nobody is waited for.
#include "runtime/core/live_line.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "runtime/core/console.h"
#include "runtime/core/units.h"
#include "runtime/core/work_line.h"

namespace sluice {
namespace {

class Terminal : public testing::Test {
 protected:
  Terminal() {
    setenv("TERM", "xterm", 1);
    master_ = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (master_ < 0 || grantpt(master_) != 0 || unlockpt(master_) != 0) return;
    slave_ = open(ptsname(master_), O_RDWR | O_NOCTTY);
    resize(40);
  }
  ~Terminal() override {
    close(slave_);
    close(master_);
  }
  void SetUp() override {
    if (slave_ < 0) GTEST_SKIP() << "this place has no terminals";
  }
  void resize(int columns) const {
    const winsize size{24, static_cast<unsigned short>(columns), 0, 0};
    ioctl(slave_, TIOCSWINSZ, &size);
  }
  std::string read_all() const {
    std::string text, part(1 << 16, '\0');
    for (ssize_t got; (got = read(master_, part.data(), part.size())) > 0;)
      text.append(part, 0, static_cast<size_t>(got));
    return text;
  }

  int master_ = -1, slave_ = -1;
};

std::string of_width(int columns) { return std::string(static_cast<size_t>(columns), '='); }
void pause_between_draws() { std::this_thread::sleep_for(std::chrono::milliseconds(120)); }

TEST_F(Terminal, IsDrawnOnInPlaceAndToItsWidth) {
  LiveLine live(slave_);
  ASSERT_TRUE(live.draws());
  live.draw(of_width);
  EXPECT_EQ(read_all(), "\r" + std::string(39, '=') + "\033[K");
  resize(20);
  pause_between_draws();
  live.draw(of_width);
  EXPECT_EQ(read_all(), "\r" + std::string(19, '=') + "\033[K");
  live.clear();
  EXPECT_EQ(read_all(), "\r\033[K");
}

TEST_F(Terminal, IsNotDrawnOnMoreThanTenTimesASecond) {
  LiveLine live(slave_);
  for (int i = 0; i < 50; ++i) live.draw([](int) { return "x"; });
  EXPECT_EQ(read_all(), "\rx\033[K");
}

TEST_F(Terminal, HasOtherLinesAboveTheOneThatLives) {
  LiveLine live(slave_);
  Console console(slave_, &live);
  console.say("before");
  live.draw([](int) { return "half done"; });
  console.say("a note");
  EXPECT_EQ(read_all(), "before\r\n\rhalf done\033[K\r\033[Ka note\r\n\rhalf done\033[K");
  live.clear();
  console.say("after");
  EXPECT_EQ(read_all(), "\r\033[Kafter\r\n");
}

TEST_F(Terminal, ThatNobodyReadsKeepsNobodyWaiting) {
  LiveLine live(slave_);
  Console console(slave_, &live);
  const auto begin = std::chrono::steady_clock::now();
  // Far more than a terminal holds; each line that is drawn is long.
  for (int i = 0; i < 200; ++i) {
    console.say(std::string(1000, 'x'));
    live.draw([](int) { return std::string(1000, 'y'); });
  }
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 3);
}

TEST(LiveLineElsewhere, IsNotDrawn) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  LiveLine live(ends[1]), none(-1);
  EXPECT_FALSE(live.draws() || none.draws());
  live.draw([](int) { return "x"; });
  char byte;
  EXPECT_LT(read(ends[0], &byte, 1), 0);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(Terminal, ThatIsDumbIsNotDrawnOn) {
  setenv("TERM", "dumb", 1);
  LiveLine live(slave_);
  EXPECT_FALSE(live.draws());
}

TEST(WorkText, FitsAnyWidth) {
  WorkState state{"verifying checkpoint-40", GiB(1).count, GiB(2).count, WorkUnit::bytes, 2};
  for (int columns = 0; columns < 130; ++columns)
    EXPECT_LE(work_text(state, columns).size(), static_cast<size_t>(columns)) << work_text(state, columns);
  EXPECT_EQ(work_text(state, 30), "verifying checkpoint-40  50%");
  EXPECT_EQ(work_text(state, 129),
            "verifying checkpoint-40  [##########..........]  50%  1.00 GiB of 2.00 GiB  512.00 MiB/s  2.00 s left");
}

TEST(WorkText, OfAnUnknownTotalIsWhatIsDone) {
  EXPECT_EQ(work_text({"preparing", 1200, 0, WorkUnit::items, 3}, 80), "preparing  1200 so far");
  EXPECT_EQ(work_text({"measuring", 0, 0, WorkUnit::items, 3}, 80), "measuring");
}

TEST_F(Terminal, ShowsWorkAndIsClearedBehindIt) {
  LiveLine live(slave_);
  Console lines(slave_, &live);
  WorkLine line(live, lines);
  {
    Work work(line, "loading", 10, WorkUnit::items);
    pause_between_draws();
    work.add(5);
  }
  EXPECT_EQ(read_all(),
            "\rloading  [....................]  0%\033[K\rloading  [##########..........]  50%\033[K\r\033[K");
}

TEST(WorkLineOnAPipe, IsSilentOnWhatIsOverSoon) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_NONBLOCK), 0);
  LiveLine live(ends[1]);
  Console lines(ends[1], &live);
  WorkLine line(live, lines);
  {
    Work work(line, "loading", 10, WorkUnit::items);
    for (int i = 0; i < 10; ++i) work.add(1);
  }
  char byte;
  EXPECT_LT(read(ends[0], &byte, 1), 0);
  {
    Work work(line, "hashing", 10, WorkUnit::items);
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    work.add(5);
    work.add(1);
  }
  std::string text(200, '\0');
  const ssize_t got = read(ends[0], text.data(), text.size());
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  EXPECT_EQ(text.substr(0, 16), "hashing: 50%, 2.") << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace sluice
