// What planning takes from a machine, and the models that it predicts times with.
#include "runtime/plan/machine.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/core/result.h"
#include "runtime/plan/block_time.h"
#include "runtime/plan/fit.h"

namespace sluice::plan {
namespace {

Machine small() {
  Machine machine;
  machine.name = "small";
  machine.gemm[Dtype::bf16] = {100e12, 64, 64, 64, {5}};
  machine.attention[Dtype::bf16] = {80e12, 50e12, 128, 100, 16, {5}};
  machine.device_memory = {1e12};
  machine.h2d = {20e9};
  machine.d2h = {25e9};
  machine.copies_both = {32e9};
  machine.drives = {{.path = "/a", .rates = {{MiB(4).count, 16, {6e9}, {3e9}, {4e9}}}}};
  machine.all_drives = striped(machine.drives);
  machine.optimizer = {{2, {20e9}, {15e9}, 0.8}, {8, {50e9}, {40e9}, 0.5}, {16, {45e9}, {30e9}, 0.2}};
  return machine;
}

double beside(const MachineProfile& profile, Lane lane, Lane other) {
  return profile.beside[static_cast<size_t>(lane)][static_cast<size_t>(other)];
}

TEST(Profile, takes_the_fastest_number_of_optimizer_threads) {
  const MachineProfile profile = profile_of(small());
  EXPECT_EQ(profile.optimizer.count, 50e9);
  EXPECT_DOUBLE_EQ(beside(profile, Lane::optim, Lane::compute), 0.8);
  EXPECT_DOUBLE_EQ(beside(profile, Lane::compute, Lane::optim), 0.5);
}

TEST(Profile, interpolates_between_numbers_of_optimizer_threads) {
  EXPECT_DOUBLE_EQ(profile_of(small(), 5).optimizer.count, 35e9);
  EXPECT_DOUBLE_EQ(profile_of(small(), 1).optimizer.count, 10e9);
  EXPECT_DOUBLE_EQ(beside(profile_of(small(), 1), Lane::compute, Lane::optim), 0.9);
  EXPECT_DOUBLE_EQ(profile_of(small(), 64).optimizer.count, 45e9);
}

TEST(Profile, copies_and_drives_share_what_both_ways_have_together) {
  const MachineProfile profile = profile_of(small());
  EXPECT_EQ(profile.disk_read.count, 6e9);
  EXPECT_DOUBLE_EQ(beside(profile, Lane::h2d, Lane::d2h), 0.8);
  EXPECT_DOUBLE_EQ(beside(profile, Lane::d2h, Lane::h2d), 0.64);
  EXPECT_DOUBLE_EQ(beside(profile, Lane::read, Lane::write), 2.0 / 6);
  EXPECT_DOUBLE_EQ(beside(profile, Lane::write, Lane::read), 2.0 / 3);
}

TEST(Drives, of_another_number_add_up_within_the_limit) {
  Machine machine = small();
  EXPECT_EQ(with_drives(machine, 3).all_drives.read.count, 18e9);
  machine.drives_at_most = {0, 0, {10e9}, {10e9}, {10e9}};
  const Machine three = with_drives(machine, 3);
  EXPECT_EQ(three.drives.size(), 3u);
  EXPECT_EQ(three.all_drives.read.count, 10e9);
  EXPECT_EQ(three.all_drives.write.count, 9e9);
  EXPECT_EQ(with_drives(three, 1).all_drives.read.count, 6e9);
}

TEST(Drives, that_were_measured_together_keep_that_rate) {
  Machine machine = small();
  machine.all_drives.read = {5e9};
  EXPECT_EQ(with_drives(machine, 1).all_drives.read.count, 5e9);
}

TEST(Drives, best_rate_prefers_little_in_flight_among_equals) {
  const std::vector<DriveRate> rates = {{MiB(1).count, 4, {1e9}, {1e9}, {1e9}},
                                        {MiB(16).count, 32, {6.1e9}, {3e9}, {4e9}},
                                        {MiB(4).count, 16, {6e9}, {3e9}, {4e9}}};
  EXPECT_EQ(best_rate(rates).request_bytes, MiB(4).count);
}

TEST(BlockTime, adds_products_attention_and_what_kernels_stream) {
  const Machine machine = small();
  const GemmModel& gemm = machine.gemm.at(Dtype::bf16);
  PassWork work{.products = {{1024, 4096, 4096, 3}}, .attention = {16, 128, 2048, 2, 1}, .kernel_bytes = 5e8};
  const double expected = 3 * gemm_time(gemm, 1024, 4096, 4096).count +
                          2 * attention_forward_time(machine.attention.at(Dtype::bf16), 16, 128, 2048).count +
                          attention_backward_time(machine.attention.at(Dtype::bf16), 16, 128, 2048).count + 500;
  EXPECT_DOUBLE_EQ(time_of(machine, Dtype::bf16, work).count, expected);
  // 2 * 1024 * 4096 * 4096 FLOPs, three fills and the overhead, by hand.
  EXPECT_NEAR(gemm_time(gemm, 1024, 4096, 4096).count, 343.6 * 1.0625 * 1.015625 * 1.015625 + 5, 0.1);
}

TEST(BlockTime, of_a_type_that_the_machine_does_not_know_is_refused) {
  try {
    (void)time_of(small(), Dtype::f32, {.products = {{1, 1, 1}}});
    FAIL();
  } catch (const SetupError& error) {
    EXPECT_EQ(error.error().message, "small says nothing of matrix products in f32");
  }
}

std::vector<GemmSample> gemm_samples(const GemmModel& truth, double noise, size_t count) {
  std::mt19937_64 random(5);
  std::uniform_int_distribution<int64_t> exponent(4, 13);
  std::uniform_real_distribution<double> disturbance(1, 1 + noise);
  std::vector<GemmSample> samples;
  for (size_t i = 0; i < count; ++i) {
    const int64_t m = 1LL << exponent(random), n = 3LL << exponent(random), k = 1LL << exponent(random);
    samples.push_back({m, n, k, gemm_time(truth, m, n, k).count * 1e-6 * disturbance(random)});
  }
  return samples;
}

TEST(Fit, finds_the_model_that_made_the_times) {
  const GemmModel truth{3e11, 12, 60, 200, {20}};
  const GemmModel found = fit_gemm(gemm_samples(truth, 0, 90));
  EXPECT_NEAR(found.flops_per_second, truth.flops_per_second, 0.02 * truth.flops_per_second);
  EXPECT_NEAR(found.k_half, truth.k_half, 0.1 * truth.k_half);
  EXPECT_LT(found.error_worst, 0.02);
}

TEST(Fit, reports_the_error_of_shapes_that_it_has_not_seen) {
  const GemmModel truth{3e11, 12, 60, 200, {20}};
  std::vector<GemmSample> samples = gemm_samples(truth, 0, 90);
  for (size_t i = 2; i < samples.size(); i += 3) samples[i].seconds *= 1.5;  // the held-out ones
  const GemmModel found = fit_gemm(samples);
  EXPECT_NEAR(found.error_median, 1.0 / 3, 0.02);
}

TEST(Fit, is_not_drawn_by_one_disturbed_time) {
  const GemmModel truth{3e11, 12, 60, 200, {20}};
  std::vector<GemmSample> samples = gemm_samples(truth, 0.05, 90);
  samples[0].seconds *= 20;
  EXPECT_LT(fit_gemm(samples).error_median, 0.05);
}

TEST(Fit, finds_forward_and_backward_of_attention) {
  const AttentionModel truth{2e11, 1.5e11, 300, 200, 40, {15}};
  std::vector<AttentionSample> samples;
  for (const int64_t heads : {4, 16})
    for (const int64_t size : {64, 128})
      for (int64_t length = 64; length <= 8192; length *= 2)
        samples.push_back({heads, size, length, attention_forward_time(truth, heads, size, length).count * 1e-6,
                           attention_backward_time(truth, heads, size, length).count * 1e-6});
  const AttentionModel found = fit_attention(samples);
  EXPECT_NEAR(found.forward_flops_per_second, 2e11, 4e9);
  EXPECT_NEAR(found.backward_flops_per_second, 1.5e11, 3e9);
  EXPECT_LT(found.error_worst, 0.03);
}

}  // namespace
}  // namespace sluice::plan
