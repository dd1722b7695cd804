// Where the loss scale ends and when it gives up; how it moves is compared with torch's in test_loss_scale.py.
#include "runtime/train/loss_scale.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sluice::train {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

Config fp16_job() {
  Config config;
  config.compute_dtype = Dtype::f16;
  return config;
}
LossScale::Found norm(double squared) { return {squared, {}, {}}; }
LossScale::Found bad_output() { return {1, Error{ErrorCode::io, "the output of block layer.3 is not finite", ""}, {}}; }
LossScale::Found bad_gradient() {
  return {1, {}, Error{ErrorCode::io, "the gradient of the input of block layer.3 is not finite", ""}};
}
std::string failure(LossScale& scale, const LossScale::Found& found) {
  try {
    scale.judge(8, found);
  } catch (const RunError& error) {
    return error.error().text();
  }
  return "";
}

TEST(LossScale, of_other_types_is_one_and_nothing_is_skipped) {
  Config config = fp16_job();
  config.compute_dtype = Dtype::bf16;
  LossScale scale(config, std::nullopt);
  EXPECT_FALSE(scale.judge(1, norm(1)));
  EXPECT_EQ(scale.value(), 1);
  EXPECT_EQ(failure(scale, norm(NAN)),
            "the gradient norm of step 8 is not finite\n  fix: lower learning_rate or check the data of this step");
}

TEST(LossScale, whatever_is_not_finite_costs_a_step) {
  LossScale scale(fp16_job(), std::nullopt);
  EXPECT_TRUE(scale.judge(1, norm(kInfinite)));
  EXPECT_TRUE(scale.judge(2, norm(NAN)));
  EXPECT_TRUE(scale.judge(3, bad_output()));
  EXPECT_TRUE(scale.judge(4, bad_gradient()));
  EXPECT_FALSE(scale.judge(5, norm(1)));
  EXPECT_EQ(scale.value(), 4096);
  EXPECT_EQ(scale.skipped_steps(), 4);
}

TEST(LossScale, goes_on_counting_where_a_checkpoint_was_made) {
  Config config = fp16_job();
  config.fp16_growth_interval = 3;
  LossScale straight(config, std::nullopt);
  EXPECT_TRUE(straight.judge(1, norm(kInfinite)));
  EXPECT_FALSE(straight.judge(2, norm(1)));
  EXPECT_FALSE(straight.judge(3, norm(1)));
  LossScale resumed(config, straight.state());
  EXPECT_EQ(resumed.value(), 32768);
  EXPECT_FALSE(straight.judge(4, norm(1)));
  EXPECT_FALSE(resumed.judge(4, norm(1)));
  EXPECT_EQ(resumed.value(), 65536);
  EXPECT_TRUE(resumed.state() == straight.state());
}

TEST(LossScale, ends_at_one_where_an_output_is_an_error_at_once) {
  LossScaleState low;
  low.scale = 1.5;
  LossScale scale(fp16_job(), low);
  EXPECT_TRUE(scale.judge(1, bad_output()));
  EXPECT_EQ(scale.value(), 1);
  EXPECT_TRUE(failure(scale, bad_output())
                  .starts_with("the output of block layer.3 is not finite, and the loss scale is down at 1: fp16 ends "
                               "at 65504\n  fix: use bf16: true"));
}

TEST(LossScale, gives_up_after_many_overflows_in_a_row_down_there) {
  LossScaleState low;
  low.scale = 1;
  LossScale scale(fp16_job(), low);
  const auto overflow = [&](int64_t times) {
    for (int64_t i = 0; i < times; ++i) EXPECT_TRUE(scale.judge(i, norm(kInfinite)));
  };
  overflow(LossScale::kOverflowsAtFloorMost - 1);
  EXPECT_FALSE(scale.judge(1, norm(1)));
  overflow(LossScale::kOverflowsAtFloorMost - 1);
  const LossScaleState before = scale.state();
  EXPECT_NE(failure(scale, bad_gradient())
                .find("the last 20 steps up to step 8 were skipped all the same (the "
                      "gradient of the input of block layer.3 is not finite)\n  fix: use "
                      "bf16: true"),
            std::string::npos);
  LossScale resumed(fp16_job(), before);
  EXPECT_NE(failure(resumed, norm(kInfinite)), "") << "a checkpoint keeps the count";
}

}  // namespace
}  // namespace sluice::train
