// Limits of the process and signals that are none of a run's.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <limits>

#include "runtime/core/result.h"
#include "runtime/train/open_files.h"
#include "runtime/train/stop_request.h"

namespace sluice::train {
namespace {

class OpenFiles : public testing::Test {
 protected:
  void SetUp() override { getrlimit(RLIMIT_NOFILE, &before_); }
  void TearDown() override { setrlimit(RLIMIT_NOFILE, &before_); }
  void allow(rlim_t files) const {
    const struct rlimit limit { files, before_.rlim_max };
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  static rlim_t allowed() {
    struct rlimit limit {};
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
  }
  struct rlimit before_ {};
};

TEST_F(OpenFiles, a_limit_that_suffices_stays) {
  allow(200);
  allow_open_files(10);
  EXPECT_EQ(allowed(), 200u);
}

TEST_F(OpenFiles, the_soft_limit_is_raised_aloud) {
  allow(64);
  testing::internal::CaptureStderr();
  allow_open_files(100);
  EXPECT_GE(allowed(), 124u);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("`ulimit -n` allows 64: raised to"), std::string::npos);
}

TEST_F(OpenFiles, are_those_of_now_and_no_limit_is_the_largest_number) {
  const ::sluice::train::OpenFiles files = open_files();
  EXPECT_GT(files.now, 2);
  EXPECT_EQ(files.with(10), files.now + 34);
  const bool is_limited = before_.rlim_max != RLIM_INFINITY;
  EXPECT_EQ(files.hard, is_limited ? static_cast<int64_t>(before_.rlim_max) : std::numeric_limits<int64_t>::max());
}

[[noreturn]] void end_with_what_is_allowed_below_a_hard_limit_of_150() {
  const struct rlimit low { 64, 150 };
  setrlimit(RLIMIT_NOFILE, &low);
  allow_open_files(100);
  struct rlimit after {};
  getrlimit(RLIMIT_NOFILE, &after);
  std::exit(static_cast<int>(after.rlim_cur));
}

// In a process of its own: a hard limit that was lowered stays so.
TEST(OpenFilesDeathTest, the_soft_limit_is_raised_to_the_hard_one_where_twice_the_need_is_more) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(end_with_what_is_allowed_below_a_hard_limit_of_150(), testing::ExitedWithCode(150),
              "`ulimit -n` allows 64: raised to 150");
}

TEST_F(OpenFiles, beyond_the_hard_limit_is_a_set_up_error) {
  if (before_.rlim_max == RLIM_INFINITY) GTEST_SKIP() << "there is no hard limit";
  EXPECT_THROW(allow_open_files(static_cast<int64_t>(before_.rlim_max)), SetupError);
}

TEST(IgnoredSignals, do_nothing_while_it_lives_and_are_as_before_afterwards) {
  struct sigaction before {
  }, after{};
  sigaction(SIGHUP, nullptr, &before);
  {
    const IgnoredSignals ignored;
    raise(SIGHUP);
    raise(SIGPIPE);
    raise(SIGXFSZ);
  }
  sigaction(SIGHUP, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

TEST(StopRequest, notes_the_first_signal_and_says_so) {
  testing::internal::CaptureStderr();
  const StopRequest stop;
  EXPECT_EQ(stop.signal(), 0);
  EXPECT_EQ(StopRequest::noted(), 0);
  raise(SIGTERM);
  EXPECT_EQ(stop.signal(), SIGTERM);
  EXPECT_EQ(StopRequest::noted(), SIGTERM);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("stopping after this step"), std::string::npos);
}

TEST(StopRequestDeathTest, the_second_signal_of_a_kind_ends_the_process) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const StopRequest stop;
        raise(SIGINT);
        raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "stopping after this step");
}

}  // namespace
}  // namespace sluice::train
