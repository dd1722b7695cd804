// The line of a step says what people ask for; the one that lives fits the terminal and drops what is wanted least.
#include "runtime/train/step_lines.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <vector>

#include "tests/unit/train/some_record.h"

namespace sluice::train {
namespace {

std::string without_escapes(std::string text) {
  for (size_t at; (at = text.find('\033')) != std::string::npos;) text.erase(at, text.find('m', at) - at + 1);
  return text;
}

TEST(StepLine, a_plain_line_holds_no_escape_sequence) {
  EXPECT_EQ(progress_text(some_record(12), 1000, 200, {.colour = false}),
            "step   12/1000  loss 2.5000  grad 1.25  lr 2.00e-05  2048 tok/s  80% of bound (read)  ETA 3 min 20 s");
}

TEST(StepLine, fp16_adds_its_scale_and_says_what_is_skipped) {
  StepRecord record = some_record(7);
  EXPECT_EQ(progress_text(record, 9, 60, {}).find("scale"), std::string::npos);
  record.loss_scale = 65536;
  EXPECT_NE(progress_text(record, 9, 60, {}).find("scale 65536  "), std::string::npos);
  record.skipped = true;
  record.grad_norm = INFINITY;
  EXPECT_NE(progress_text(record, 9, 60, {}).find("overflow, skipped"), std::string::npos);
  record.grad_norm = -NAN;
  EXPECT_NE(progress_text(record, 9, 60, {}).find("grad nan"), std::string::npos);
}

TEST(StepLine, colours_add_nothing_but_escape_sequences) {
  const std::string coloured = progress_text(some_record(12), 1000, 200, {.colour = true});
  EXPECT_NE(coloured.find("\033[1m2.5000\033[0m"), std::string::npos);
  EXPECT_EQ(without_escapes(coloured), progress_text(some_record(12), 1000, 200, {.colour = false}));
}

RunState some_state() {
  RunState state;
  state.last = some_record(300);
  state.last->disk_read_bytes = 900'000'000;
  state.last->disk_write_bytes = 600'000'000;  // in half a second
  state.steps_done = 300;
  state.steps_total = 1000;
  state.step_share = 0.5;
  state.seconds_left = 200;
  state.resident = GiB(3);
  return state;
}

TEST(LiveLineOfARun, fits_any_width_and_keeps_what_is_wanted_most) {
  RunState state = some_state();
  state.has_device = true;
  state.last->device_peak_bytes = GiB(7).count;
  size_t before = 0;
  for (int columns = 0; columns <= 220; ++columns) {
    const std::string text = run_text(state, columns, {});
    EXPECT_LE(text.size(), static_cast<size_t>(columns)) << text;
    EXPECT_EQ(without_escapes(run_text(state, columns, {.colour = true})), text);
    EXPECT_EQ(text.find("300/1000") != std::string::npos, columns >= 8) << text;
    EXPECT_TRUE(columns < 36 || text.find("  loss 2.5000") != std::string::npos) << text;
    EXPECT_GE(text.size() + 20, before) << text;  // more room never shows much less
    before = text.size();
  }
  EXPECT_EQ(run_text(state, 39, {}), "300/1000  loss 2.5000  ETA 3 min 20 s");
  EXPECT_EQ(run_text(state, 79, {}), "[###.........]  300/1000  loss 2.5000  2048 tok/s  80% of bound  ETA 3 min 20 s");
  EXPECT_EQ(
      run_text(state, 199, {}),
      "[#########.....................]  300/1000  loss 2.5000  grad 1.25  lr 2.00e-05  2048 tok/s  80% of bound  "
      "(read)  disk 3.00 GB/s  RAM 3.00 GiB  VRAM 7.00 GiB  ETA 3 min 20 s");
}

TEST(LiveLineOfARun, without_a_device_or_a_disk_does_not_speak_of_them) {
  RunState state = some_state();
  state.last->disk_read_bytes = state.last->disk_write_bytes = 0;
  const std::string text = run_text(state, 199, {});
  EXPECT_EQ(text.find("disk"), std::string::npos) << text;
  EXPECT_EQ(text.find("VRAM"), std::string::npos) << text;
}

TEST(LiveLineOfARun, says_of_fp16_what_a_plain_line_says) {
  RunState state = some_state();
  EXPECT_EQ(run_text(state, 199, {}).find("scale"), std::string::npos);
  state.last->loss_scale = 65536;
  state.last->skipped = true;
  const std::string text = run_text(state, 199, {});
  EXPECT_NE(text.find("loss 2.5000  overflow, skipped  scale 65536  grad"), std::string::npos) << text;
  EXPECT_EQ(run_text(state, 62, {}), "300/1000  loss 2.5000  overflow, skipped  ETA 3 min 20 s")
      << "that a step is skipped is wanted before its speed";
}

TEST(LiveLineOfARun, shows_the_first_step_before_it_has_ended) {
  RunState state;
  state.steps_total = 100;
  state.step_share = 0.25;
  EXPECT_EQ(run_text(state, 60, {}), "[..............................]  0/100  first step 25%");
}

std::vector<std::string> lines_of(const StepLinesOptions& options, int64_t steps) {
  testing::internal::CaptureStdout();
  Console console(STDOUT_FILENO);
  LiveLine live(-1);
  StepLines lines(console, live, options);
  for (int64_t step = 1; step <= steps; ++step) {
    lines.advanced(0.5);
    lines.ended(some_record(step));
  }
  std::vector<std::string> all;
  std::istringstream stream(testing::internal::GetCapturedStdout());
  for (std::string each; std::getline(stream, each);) all.push_back(each);
  return all;
}

TEST(StepLinesOnAPipe, are_the_first_every_nth_and_the_last_step) {
  std::vector<std::string> starts;
  for (const std::string& line : lines_of({.steps_total = 10, .every = 4}, 10)) starts.push_back(line.substr(0, 10));
  EXPECT_EQ(starts, (std::vector<std::string>{"step  1/10", "step  4/10", "step  8/10", "step 10/10"}));
}

TEST(StepLinesOnAPipe, are_none_when_quiet) {
  EXPECT_TRUE(lines_of({.output = StepOutput::none, .steps_total = 2}, 2).empty());
}

TEST(StepLinesOnAPipe, are_the_logs_lines_as_json) {
  EXPECT_EQ(lines_of({.output = StepOutput::json, .steps_total = 2, .every = 10}, 2),
            (std::vector<std::string>{to_json_line(some_record(1)), to_json_line(some_record(2))}));
}

// A terminal beside stdout, which is a pipe.
class StepLinesBesideATerminal : public testing::Test {
 protected:
  StepLinesBesideATerminal() {
    setenv("TERM", "xterm", 1);
    master_ = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (master_ >= 0 && grantpt(master_) == 0 && unlockpt(master_) == 0)
      slave_ = open(ptsname(master_), O_RDWR | O_NOCTTY);
  }
  ~StepLinesBesideATerminal() override {
    close(slave_);
    close(master_);
  }
  void SetUp() override {
    if (slave_ < 0) GTEST_SKIP() << "this place has no terminals";
  }
  // What the terminal has seen of one step, whose line goes to stdout.
  std::string drawn(StepOutput output) const {
    testing::internal::CaptureStdout();
    {
      Console console(STDOUT_FILENO);
      LiveLine live(slave_);
      StepLines lines(console, live, {.output = output, .steps_total = 1});
      lines.advanced(0.5);
      lines.ended(some_record(1));
    }
    EXPECT_EQ(testing::internal::GetCapturedStdout().empty(), output == StepOutput::none);
    std::string text(1 << 12, '\0');
    const ssize_t got = read(master_, text.data(), text.size());
    return text.substr(0, static_cast<size_t>(std::max<ssize_t>(got, 0)));
  }

  int master_ = -1, slave_ = -1;
};

TEST_F(StepLinesBesideATerminal, live_there_when_stdout_has_json_and_else_not) {
  const std::string text = drawn(StepOutput::json);
  EXPECT_NE(text.find("0/1  first step 50%"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("\r\033[K")) << "the line of the last step stays: " << text;
  EXPECT_EQ(drawn(StepOutput::lines), "");
  EXPECT_EQ(drawn(StepOutput::none), "");
}

}  // namespace
}  // namespace sluice::train
