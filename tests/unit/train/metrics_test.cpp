// The log line is a contract; the log survives being resumed; the progress line says what people ask for.
#include "runtime/train/metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <sstream>

#include "runtime/core/result.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

StepRecord some_record(int64_t step) {
  StepRecord record;
  record.step = step;
  record.loss = 2.5;
  record.grad_norm = 1.25;
  record.learning_rate = 2e-05;
  record.tokens = 1024;
  record.step_seconds = 0.5;
  record.tokens_per_second = 2048;
  record.bound_seconds = 0.4;
  record.percent_of_bound = 80;
  record.binding_lane = "read";
  record.device_peak_bytes = 1;
  record.host_peak_bytes = 2;
  record.disk_read_bytes = 3;
  record.disk_write_bytes = 4;
  return record;
}

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
  const std::string plain = to_json_line(record), text = progress_text(record, 9, 60, {});
  record.loss_scale = 65536;
  EXPECT_EQ(to_json_line(record), plain.substr(0, plain.size() - 1) + R"(,"loss_scale":65536.0,"skipped":false})");
  EXPECT_NE(progress_text(record, 9, 60, {}).find("scale 65536  "), std::string::npos);
  EXPECT_EQ(text.find("scale"), std::string::npos);
  record.skipped = true;
  record.grad_norm = INFINITY;
  EXPECT_NE(progress_text(record, 9, 60, {}).find("overflow, skipped"), std::string::npos);
  record.grad_norm = -NAN;
  EXPECT_NE(progress_text(record, 9, 60, {}).find("grad nan"), std::string::npos);
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

TEST(ProgressLine, a_plain_line_holds_no_escape_sequence) {
  EXPECT_EQ(progress_text(some_record(12), 1000, 200, {.colour = false}),
            "step   12/1000  loss 2.5000  grad 1.25  lr 2.00e-05  2048 tok/s  80% of bound (read)  ETA 3 min 20 s");
}

TEST(ProgressLine, colours_add_nothing_but_escape_sequences) {
  std::string coloured = progress_text(some_record(12), 1000, 200, {.colour = true});
  EXPECT_NE(coloured.find("\033[1m2.5000\033[0m"), std::string::npos);
  for (size_t at; (at = coloured.find('\033')) != std::string::npos;)
    coloured.erase(at, coloured.find('m', at) - at + 1);
  EXPECT_EQ(coloured, progress_text(some_record(12), 1000, 200, {.colour = false}));
}

TEST(ProgressLine, shows_the_first_every_nth_and_the_last_step) {
  testing::internal::CaptureStdout();
  Console console(STDOUT_FILENO);
  ProgressLine line(console, 10, false, 4);
  for (int64_t step = 1; step <= 10; ++step) line.show(some_record(step));
  const std::string text = testing::internal::GetCapturedStdout();
  std::vector<std::string> starts;
  std::istringstream stream(text);
  for (std::string each; std::getline(stream, each);) starts.push_back(each.substr(0, 10));
  EXPECT_EQ(starts, (std::vector<std::string>{"step  1/10", "step  4/10", "step  8/10", "step 10/10"})) << text;
}

TEST(ProgressLine, is_silent_when_quiet) {
  testing::internal::CaptureStdout();
  Console console(STDOUT_FILENO);
  ProgressLine line(console, 2, true);
  line.show(some_record(1));
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
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
