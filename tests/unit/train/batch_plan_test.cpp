// Which rows each step sees: permutations, Hugging Face's counting, and that nothing but the step number matters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "runtime/train/data.h"
#include "tests/unit/train/job_folder.h"
#include "tests/unit/train/token_file.h"

namespace sluice::train {
namespace {

std::vector<int64_t> epoch_of(const EpochOrder& order, int64_t rows, int64_t epoch) {
  std::vector<int64_t> all;
  for (int64_t position = 0; position < rows; ++position) all.push_back(order.at(epoch, position));
  return all;
}

TEST(BatchPlan, times_per_epoch_become_steps) {
  const BatchPlan plan({.rows = 21, .micro_batch_size = 2});  // 11 steps
  EXPECT_EQ(plan.every(1), 11);
  EXPECT_EQ(plan.every(4), 3);
  EXPECT_EQ(plan.every(100), 1);
}

TEST(EpochOrder, every_epoch_holds_every_row_once) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 65, 1000, 4097}) {
    for (const uint64_t seed : {0u, 42u}) {
      std::vector<int64_t> all = epoch_of(EpochOrder(rows, seed, RowOrder::shuffled), rows, 3);
      std::sort(all.begin(), all.end());
      std::vector<int64_t> expected(static_cast<size_t>(rows));
      std::iota(expected.begin(), expected.end(), 0);
      ASSERT_EQ(all, expected) << rows << " rows, seed " << seed;
    }
  }
}

TEST(EpochOrder, sequential_order_is_the_file_in_every_epoch) {
  const EpochOrder order(100, 42, RowOrder::sequential);
  for (int64_t position = 0; position < 100; ++position) EXPECT_EQ(order.at(5, position), position);
}

TEST(EpochOrder, epochs_and_seeds_differ_and_repeat) {
  const EpochOrder order(1000, 1, RowOrder::shuffled);
  EXPECT_EQ(epoch_of(order, 1000, 0), epoch_of(EpochOrder(1000, 1, RowOrder::shuffled), 1000, 0));
  EXPECT_NE(epoch_of(order, 1000, 0), epoch_of(order, 1000, 1));
  EXPECT_NE(epoch_of(order, 1000, 0), epoch_of(EpochOrder(1000, 2, RowOrder::shuffled), 1000, 0));
}

TEST(EpochOrder, shuffles_large_datasets_without_storing_them) {
  const int64_t rows = int64_t{3} << 40;
  const EpochOrder order(rows, 42, RowOrder::shuffled);
  std::set<int64_t> seen;
  for (int64_t position = 0; position < 1000; ++position) {
    const int64_t row = order.at(0, position);
    ASSERT_TRUE(row >= 0 && row < rows);
    ASSERT_TRUE(seen.insert(row).second);
  }
}

// Chi-squared over all 24 orders of four rows, and over (position, row) pairs of a larger set: a permutation that
// favours some orders would fail. 99.9% quantiles: 49.7 for 23 degrees of freedom; normal approximation for many.
TEST(EpochOrder, all_orders_of_few_rows_come_up_alike) {
  const int epochs = 24 * 400;
  const EpochOrder order(4, 42, RowOrder::shuffled);
  std::map<std::vector<int64_t>, int> counts;
  for (int epoch = 0; epoch < epochs; ++epoch) ++counts[epoch_of(order, 4, epoch)];
  ASSERT_EQ(counts.size(), 24u);
  double chi_squared = 0;
  for (const auto& [rows, count] : counts) chi_squared += std::pow(count - 400.0, 2) / 400.0;
  EXPECT_LT(chi_squared, 49.7);
}

TEST(EpochOrder, every_row_comes_to_every_position_alike) {
  const int64_t rows = 37;
  const int epochs = 37 * 200;
  const EpochOrder order(rows, 7, RowOrder::shuffled);
  std::vector<int> counts(static_cast<size_t>(rows * rows));
  for (int epoch = 0; epoch < epochs; ++epoch)
    for (int64_t position = 0; position < rows; ++position)
      ++counts[static_cast<size_t>(position * rows + order.at(epoch, position))];
  double chi_squared = 0;
  for (const int count : counts) chi_squared += std::pow(count - 200.0, 2) / 200.0;
  const double freedom = 36.0 * 36.0;
  EXPECT_LT(std::abs(chi_squared - freedom), 4 * std::sqrt(2 * freedom));
}

struct Counting {
  int64_t rows, micro_batch_size, accumulation;
  int64_t micro_batches_per_epoch, steps_per_epoch;
};

// The Hugging Face trainer: len(dataloader) = ceil(rows / batch), steps = ceil(len / accumulation).
TEST(BatchPlan, counts_as_the_hugging_face_trainer) {
  for (const Counting& each : {Counting{10, 2, 1, 5, 5},
                               {10, 3, 1, 4, 4},
                               {10, 3, 2, 4, 2},
                               {10, 3, 3, 4, 2},
                               {10, 3, 8, 4, 1},
                               {1, 4, 4, 1, 1},
                               {7, 1, 3, 7, 3}}) {
    const BatchPlan plan(BatchPlanOptions{.rows = each.rows,
                                          .micro_batch_size = each.micro_batch_size,
                                          .gradient_accumulation_steps = each.accumulation});
    EXPECT_EQ(plan.micro_batches_per_epoch(), each.micro_batches_per_epoch);
    EXPECT_EQ(plan.steps_per_epoch(), each.steps_per_epoch);
    EXPECT_EQ(plan.steps_total(), each.steps_per_epoch);
    EXPECT_EQ(plan.micro_batches_max(), std::min(each.accumulation, each.micro_batches_per_epoch));
  }
}

TEST(BatchPlan, a_fraction_of_an_epoch_rounds_up_to_steps_and_max_steps_wins) {
  BatchPlanOptions options{.rows = 10, .micro_batch_size = 1, .gradient_accumulation_steps = 3, .epochs = 2.5};
  EXPECT_EQ(BatchPlan(options).steps_total(), 10);  // 4 steps an epoch
  options.epochs = 0.1;
  EXPECT_EQ(BatchPlan(options).steps_total(), 1);
  options.max_steps = 9;
  EXPECT_EQ(BatchPlan(options).steps_total(), 9);
}

TEST(BatchPlan, more_epochs_than_can_be_counted_are_a_number_of_steps) {
  EXPECT_EQ(BatchPlan({.rows = 7, .epochs = 1e300}).steps_total(), 1'000'000'000'000'000);
}

TEST(BatchPlan, a_step_never_reaches_into_the_next_epoch) {
  const BatchPlan plan(BatchPlanOptions{
      .rows = 7, .micro_batch_size = 2, .gradient_accumulation_steps = 3, .epochs = 2, .order = RowOrder::sequential});
  using Rows = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(plan.rows_of(0), (Rows{{0, 1}, {2, 3}, {4, 5}}));
  EXPECT_EQ(plan.rows_of(1), (Rows{{6}}));
  EXPECT_EQ(plan.rows_of(2), (Rows{{0, 1}, {2, 3}, {4, 5}}));
  EXPECT_EQ(plan.steps_total(), 4);
}

TEST(BatchPlan, random_plans_visit_every_row_once_an_epoch_and_in_any_order_of_asking) {
  const unsigned seed = 20240607;
  std::mt19937 random(seed);
  const auto pick = [&](int most) { return static_cast<int64_t>(random() % static_cast<unsigned>(most)) + 1; };
  for (int trial = 0; trial < 200; ++trial) {
    const BatchPlanOptions options{.rows = pick(50),
                                   .micro_batch_size = pick(6),
                                   .gradient_accumulation_steps = pick(5),
                                   .epochs = 3,
                                   .seed = random()};
    const BatchPlan plan(options);
    for (int64_t epoch = 2; epoch >= 0; --epoch) {
      std::multiset<int64_t> seen;
      for (int64_t step = plan.steps_per_epoch() - 1; step >= 0; --step) {
        const auto micro_batches = plan.rows_of(epoch * plan.steps_per_epoch() + step);
        ASSERT_FALSE(micro_batches.empty());
        ASSERT_LE(static_cast<int64_t>(micro_batches.size()), plan.micro_batches_max());
        for (const auto& rows : micro_batches) {
          ASSERT_FALSE(rows.empty());
          ASSERT_LE(static_cast<int64_t>(rows.size()), options.micro_batch_size);
          seen.insert(rows.begin(), rows.end());
        }
      }
      ASSERT_EQ(seen.size(), static_cast<size_t>(options.rows)) << "seed " << seed << ", trial " << trial;
      ASSERT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), seen.size());
    }
  }
}

using BatchPlanData = JobFolder;

std::vector<TestRow> rows_of_growing_length(int count) {
  std::vector<TestRow> rows;
  for (int i = 0; i < count; ++i) rows.push_back({counting_document(100 * i, i + 2, 1)});
  return rows;
}

TEST_F(BatchPlanData, the_supervised_tokens_of_a_step_are_the_sum_over_its_micro_batches) {
  write_bytes("train.tokens", token_file_bytes(rows_of_growing_length(5)));
  const TokenDataset dataset("train.tokens");
  const BatchPlan plan(BatchPlanOptions{
      .rows = 5, .micro_batch_size = 2, .gradient_accumulation_steps = 2, .order = RowOrder::sequential});
  const StepData step = plan.training(dataset, 0);
  ASSERT_EQ(step.micro_batches.size(), 2u);
  EXPECT_EQ(step.micro_batches[0].supervised, 1 + 2);
  EXPECT_EQ(step.micro_batches[1].supervised, 3 + 4);
  EXPECT_EQ(step.supervised, 10);
  EXPECT_EQ(plan.training(dataset, 1).supervised, 5);
}

TEST_F(BatchPlanData, no_micro_batch_holds_more_than_tokens_max) {
  write_bytes("train.tokens", token_file_bytes(rows_of_growing_length(9)));
  const TokenDataset dataset("train.tokens");
  const BatchPlan plan(BatchPlanOptions{.rows = 9, .micro_batch_size = 4, .epochs = 50, .seed = 3});
  size_t most = 0;
  for (int64_t step = 0; step < plan.steps_total(); ++step)
    for (const MicroBatchData& batch : plan.training(dataset, step).micro_batches)
      most = std::max(most, batch.token_ids.size());
  EXPECT_LE(static_cast<int64_t>(most), dataset.tokens_max(4));
}

TEST_F(BatchPlanData, validation_reads_every_row_once_in_file_order) {
  write_bytes("validation.tokens", token_file_bytes(rows_of_growing_length(7)));
  const TokenDataset dataset("validation.tokens");
  const BatchPlan plan(BatchPlanOptions{.rows = 100, .micro_batch_size = 2});
  ASSERT_EQ(plan.validation_batches(dataset, 3), 2);
  std::vector<int32_t> first_ids;
  std::vector<size_t> micro_batches;
  for (int64_t batch = 0; batch < 2; ++batch) {
    const StepData data = plan.validation(dataset, batch, 3);
    micro_batches.push_back(data.micro_batches.size());
    for (const MicroBatchData& each : data.micro_batches)
      for (size_t i = 0; i + 1 < each.document_starts.size(); ++i)
        first_ids.push_back(each.token_ids[static_cast<size_t>(each.document_starts[i])]);
  }
  EXPECT_EQ(micro_batches, (std::vector<size_t>{3, 1}));
  EXPECT_EQ(first_ids, (std::vector<int32_t>{0, 100, 200, 300, 400, 500, 600}));
}

}  // namespace
}  // namespace sluice::train
