// The learning rate's shape; job_probe and test_lr_schedule.py compare it with transformers, step by step.
#include "runtime/train/lr_schedule.h"

#include <gtest/gtest.h>

namespace sluice::train {
namespace {

Config config_with(LearningRateSchedule schedule, int64_t warmup_steps) {
  Config config;
  config.learning_rate = 1.0;
  config.lr_scheduler = schedule;
  config.warmup_steps = warmup_steps;
  return config;
}

TEST(LearningRate, warms_up_from_zero_and_the_first_step_after_it_has_the_peak) {
  for (const auto schedule :
       {LearningRateSchedule::constant, LearningRateSchedule::linear, LearningRateSchedule::cosine}) {
    const LearningRate rate(config_with(schedule, 4), 20);
    EXPECT_EQ(rate.at(0), 0.0);
    EXPECT_EQ(rate.at(1), 0.25);
    EXPECT_EQ(rate.at(4), 1.0);
  }
}

TEST(LearningRate, decays_towards_zero_after_the_last_step) {
  const LearningRate linear(config_with(LearningRateSchedule::linear, 0), 10);
  EXPECT_EQ(linear.at(0), 1.0);
  EXPECT_DOUBLE_EQ(linear.at(9), 0.1);
  EXPECT_EQ(linear.at(10), 0.0);
  EXPECT_EQ(linear.at(25), 0.0);
  EXPECT_DOUBLE_EQ(LearningRate(config_with(LearningRateSchedule::cosine, 0), 10).at(5), 0.5);
  EXPECT_EQ(LearningRate(config_with(LearningRateSchedule::constant, 0), 10).at(9), 1.0);
}

TEST(LearningRate, warmup_ratio_counts_in_steps_rounded_up) {
  Config config = config_with(LearningRateSchedule::linear, 0);
  config.warmup_ratio = 0.03;
  EXPECT_EQ(LearningRate(config, 100).warmup_steps(), 3);
  EXPECT_EQ(LearningRate(config, 101).warmup_steps(), 4);
  EXPECT_EQ(LearningRate(config, 1).warmup_steps(), 1);
}

}  // namespace
}  // namespace sluice::train
