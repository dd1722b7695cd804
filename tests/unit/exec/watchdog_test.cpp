// A drive that does not answer is named, and waited for.
#include "runtime/exec/watchdog.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "tests/unit/exec/toy_run.h"

namespace sluice::exec {
namespace {

using plan::Op;
using plan::OpKind;

class WatchdogTest : public testing::Test {
 protected:
  WatchdogTest() {
    schedule_.ops = {{.kind = OpKind::read, .lane = Lane::read, .group = 4},
                     {.kind = OpKind::read, .lane = Lane::read, .group = 5},
                     {.kind = OpKind::forward, .lane = Lane::compute, .block = 7, .time = {10e6}}};
    watchdog_.begin_phase(schedule_);
  }
  // What it says at that second.
  std::vector<std::string> at(double seconds) {
    said_.clear();
    watchdog_.check(seconds * 1e6, [](plan::OpId op) { return op == 0 ? "from a drive" : ""; });
    return said_;
  }

  plan::Schedule schedule_;
  std::vector<std::string> said_;
  Watchdog watchdog_{{Microseconds{30e6}, [this](const std::string& line) { said_.push_back(line); }}};
};

TEST_F(WatchdogTest, ReportsASilentLaneAtDoublingIntervalsAndSaysWhenItAnswers) {
  watchdog_.issued(0, 1e6);
  EXPECT_TRUE(at(30).empty());
  EXPECT_EQ(at(31), std::vector<std::string>{
                        "waiting: the read lane has not answered for 30.00 s: read group 4, from a drive"});
  EXPECT_TRUE(at(60).empty());
  EXPECT_EQ(at(61).size(), 1u);
  EXPECT_TRUE(at(120).empty());
  EXPECT_EQ(at(121).size(), 1u);
  watchdog_.ended(0, 130e6);
  EXPECT_EQ(said_.back(), "going on: the read lane has answered, after 2 min 09 s");
  EXPECT_TRUE(at(500).empty());
}

TEST_F(WatchdogTest, AnOpInTheQueueIsNotOverdueBeforeItsTurn) {
  watchdog_.issued(0, 0);
  watchdog_.issued(1, 0);
  watchdog_.ended(0, 29e6);
  EXPECT_TRUE(at(58).empty());
  EXPECT_EQ(at(59), std::vector<std::string>{"waiting: the read lane has not answered for 30.00 s: read group 5"});
}

TEST_F(WatchdogTest, OthersThatOvertakeTheOldestDoNotHideIt) {
  watchdog_.issued(0, 0);
  watchdog_.issued(1, 0);
  watchdog_.ended(1, 29e6);
  EXPECT_EQ(at(30).size(), 1u);
}

TEST_F(WatchdogTest, ComputeThatWasPlannedToBeSlowIsGivenItsTime) {
  watchdog_.issued(2, 0);
  EXPECT_TRUE(at(99).empty());
  EXPECT_EQ(at(100).size(), 1u);
}

// Seconds, scaled: the drive answers one request 60 ms late, the watchdog barks after 15.
TEST(Watchdog, NamesLaneFileAndOffsetOfADriveThatAnswersLateAndTheRunEndsAsEver) {
  const ToyJob disk{"disk", plan::DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, plan::SlotFate::disk, 2};
  Toy undisturbed(disk);
  const Outcome expected = undisturbed.train(3);
  for (const int64_t late : {40, 60, 90}) {
    std::vector<std::string> said;
    ExecutorOptions options{.optimizer_threads = 2};
    options.watchdog = {Microseconds{15e3}, [&](const std::string& line) { said.push_back(line); }};
    Toy toy(
        disk,
        [late](std::unique_ptr<swap::IoBackend> inner) {
          return swap::make_faulty_backend(std::move(inner),
                                           {.delay_at = late, .delay = std::chrono::milliseconds(150)});
        },
        options);
    EXPECT_EQ(toy.train(3), expected) << late;
    const auto about_the_drive = [](const std::string& line) {
      return line.find("lane has not answered for") != std::string::npos && line.find("offset") != std::string::npos &&
             line.find("sluice-executor-") != std::string::npos;
    };
    EXPECT_TRUE(std::any_of(said.begin(), said.end(), about_the_drive))
        << late << ": " << (said.empty() ? "nothing was said" : said.front());
  }
}

// Reads of that drive fail, so that the run does; its writes would wait for room for an hour.
TEST(Watchdog, AWriteThatWaitsForRoomDoesNotKeepAFailedRunFromItsEnd) {
  const ToyJob disk{"disk", plan::DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, plan::SlotFate::disk, 2};
  std::vector<std::string> said;
  Toy toy(disk,
          [](std::unique_ptr<swap::IoBackend> inner) {
            return swap::make_faulty_backend(std::move(inner), {.fail_at = 60, .fail_errno = ENOSPC});
          },
          {.optimizer_threads = 2},
          {std::chrono::hours(1), std::chrono::hours(1), [&](const std::string& line) { said.push_back(line); }});
  EXPECT_THROW(toy.train(5), RunError);
}

}  // namespace
}  // namespace sluice::exec
