// The log line is a contract; the log survives being resumed.
#include "runtime/train/metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <sstream>

#include "runtime/core/result.h"
#include "tests/unit/train/job_folder.h"
#include "tests/unit/train/some_record.h"

namespace sluice::train {
namespace {

class StepLogTest : public JobFolder {
 protected:
  static std::string contents() {
    std::ostringstream text;
    text << std::ifstream("trainer_log.jsonl").rdbuf();
    return text.str();
  }
  static std::string lines(std::initializer_list<int64_t> steps) {
    std::string text;
    for (const int64_t step : steps) text += to_json_line(some_record(step)) + "\n";
    return text;
  }
};

TEST(StepRecord, the_line_has_the_keys_of_the_design_in_their_order) {
  EXPECT_EQ(to_json_line(some_record(7)),
            R"({"step":7,"loss":2.5,"grad_norm":1.25,"learning_rate":2e-05,"tokens":1024,"step_seconds":0.5,)"
            R"("tokens_per_second":2048.0,"bound_seconds":0.4,"percent_of_bound":80.0,"binding_lane":"read",)"
            R"("device_peak_bytes":1,"host_peak_bytes":2,"disk_read_bytes":3,"disk_write_bytes":4})");
}

TEST(StepRecord, fp16_adds_its_scale_behind_them) {
  StepRecord record = some_record(7);
  const std::string plain = to_json_line(record);
  record.loss_scale = 65536;
  EXPECT_EQ(to_json_line(record), plain.substr(0, plain.size() - 1) + R"(,"loss_scale":65536.0,"skipped":false})");
  record.grad_norm = -NAN;
  EXPECT_NE(to_json_line(record).find(R"("grad_norm":null)"), std::string::npos);
}

TEST(StepRecord, numbers_are_written_to_the_last_digit_and_nan_is_null) {
  StepRecord record = some_record(1);
  record.loss = 0.1 + 0.2;
  record.grad_norm = std::nan("");
  const std::string line = to_json_line(record);
  EXPECT_NE(line.find("\"loss\":0.30000000000000004,"), std::string::npos) << line;
  EXPECT_NE(line.find("\"grad_norm\":null,"), std::string::npos) << line;
}

TEST_F(StepLogTest, a_line_is_in_the_file_as_soon_as_it_is_appended) {
  StepLog log("trainer_log.jsonl", 0);
  log.append(some_record(1));
  EXPECT_EQ(contents(), lines({1}));
  log.append(some_record(2));
  EXPECT_EQ(contents(), lines({1, 2}));
}

TEST_F(StepLogTest, resuming_drops_the_steps_that_are_done_again_and_a_torn_line) {
  write("trainer_log.jsonl", lines({1, 2, 3}) + R"({"step":4,"lo)");
  {
    StepLog log("trainer_log.jsonl", 2);
    EXPECT_EQ(contents(), lines({1, 2}));
    log.append(some_record(3));
  }
  EXPECT_EQ(contents(), lines({1, 2, 3}));
}

// A file may grow on the drive before its bytes are there. They read as zeros then.
TEST_F(StepLogTest, resuming_drops_lines_that_a_loss_of_power_left_as_zeros) {
  const std::string kept = lines({1, 2}), lost(700, '\0');
  write("trainer_log.jsonl", kept + lines({3}).substr(0, 50) + lost + "\"tokens\":1024}\n" + lines({5}));
  const StepLog log("trainer_log.jsonl", 2);
  EXPECT_EQ(contents(), kept);
}

TEST_F(StepLogTest, a_new_run_starts_a_new_log) {
  write("trainer_log.jsonl", lines({1, 2, 3}));
  const StepLog log("trainer_log.jsonl", 0);
  EXPECT_EQ(contents(), "");
}

TEST_F(StepLogTest, a_log_of_something_else_is_not_overwritten) {
  write("trainer_log.jsonl", "dear diary\n");
  EXPECT_THROW(StepLog("trainer_log.jsonl", 2), SetupError);
  EXPECT_EQ(contents(), "dear diary\n");
}

TEST_F(StepLogTest, a_folder_that_is_not_there_is_named) {
  try {
    const StepLog log("gone/trainer_log.jsonl", 0);
    FAIL();
  } catch (const RunError& error) {
    EXPECT_EQ(error.error().message, "gone/trainer_log.jsonl.partial: create: No such file or directory");
  }
}

TEST(WantsColour, not_on_a_pipe) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  EXPECT_FALSE(wants_colour(ends[1]));
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(WantsColour, on_a_terminal_unless_no_color_or_a_dumb_one) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0) GTEST_SKIP() << "this place has no terminals";
  ::unsetenv("NO_COLOR");
  ::setenv("TERM", "xterm", 1);
  EXPECT_TRUE(wants_colour(terminal));
  ::setenv("NO_COLOR", "1", 1);
  EXPECT_FALSE(wants_colour(terminal));
  ::unsetenv("NO_COLOR");
  ::setenv("TERM", "dumb", 1);
  EXPECT_FALSE(wants_colour(terminal));
  ::close(terminal);
}

}  // namespace
}  // namespace sluice::train
