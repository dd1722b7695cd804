// Batches of the program that embeds the runtime: checked, shifted, and batched as a dataset's rows.
#include "runtime/train/own_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

constexpr int64_t kVocabulary = 100;

Config small_job() {
  Config config;
  config.sequence_len = 4;
  config.micro_batch_size = 2;
  config.gradient_accumulation_steps = 3;
  return config;
}

StepData step_of(const OwnBatch& batch) {
  const OwnSource once = [&](int64_t, int64_t index, OwnBatch& to) {
    to = batch;
    return index == 0;
  };
  return read_own_step(once, 4, OwnLimits(small_job(), kVocabulary));
}

std::string refusal_of(const OwnBatch& batch) {
  try {
    step_of(batch);
  } catch (const SetupError& error) {
    return error.what();
  }
  return "none";
}

TEST(OwnBatches, AreShiftedInsideEachDocument) {
  const StepData data = step_of({{10, 11, 12, 20, 21}, {10, -100, 12, 20, 21}, {0, 3}});
  ASSERT_EQ(data.micro_batches.size(), 1u);
  const MicroBatchData& batch = data.micro_batches[0];
  EXPECT_EQ(batch.token_ids, (std::vector<int32_t>{10, 11, 12, 20, 21}));
  EXPECT_EQ(batch.labels, (std::vector<int32_t>{-100, 12, -100, 21, -100}));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{0, 1, 2, 0, 1}));
  EXPECT_EQ(batch.document_starts, (std::vector<int32_t>{0, 3, 5}));
  EXPECT_EQ(data.supervised, 2);
}

TEST(OwnBatches, WithoutLabelsLearnEveryToken) {
  EXPECT_EQ(step_of({{1, 2, 3}, {}, {}}).micro_batches[0].labels, (std::vector<int32_t>{2, 3, -100}));
}

TEST(OwnBatches, ThatCannotBeAreRefusedNamingStepAndMicroBatch) {
  const std::vector<std::pair<OwnBatch, std::string>> cases = {
      {{}, "no tokens"},
      {{{1, 2, 3}, {1, 2}, {}}, "3 tokens and 2 labels"},
      {{{1, 100}, {}, {}}, "token 100 at position 1 is outside the model's vocabulary of 100"},
      {{{1, -1}, {}, {}}, "token -1 at position 1"},
      {{{1, 2}, {1, -7}, {}}, "label -7 at position 1"},
      {{{1, 2}, {}, {1}}, "document_starts begins with 1"},
      {{{1, 2}, {}, {0, 2}}, "a document from token 2 to 2"},
      {{{1, 2, 3}, {}, {0, 2, 1}}, "3 documents"},
      {{{1, 2, 3, 4, 5}, {}, {}}, "a document of 5 tokens"},
      {{std::vector<int32_t>(9, 1), {}, {0, 4}}, "a document of 5 tokens"},
      {{{1, 2}, {}, {0, 3}}, "a document from token 0 to 3"},
  };
  for (const auto& [batch, text] : cases) {
    const std::string said = refusal_of(batch);
    EXPECT_EQ(said.find("step 5, micro-batch 1: " + text), 0u) << said;
    EXPECT_NE(said.find("\n  fix: "), std::string::npos) << said;
  }
}

TEST(OwnBatches, EndAStepByFalseAndTheDataWithNone) {
  const OwnLimits limits(small_job(), kVocabulary);
  const auto given = [](int64_t count) {
    return [count](int64_t, int64_t index, OwnBatch& to) {
      to.token_ids = {1, 2};
      return index < count;
    };
  };
  EXPECT_EQ(read_own_step(given(2), 0, limits).micro_batches.size(), 2u);
  EXPECT_EQ(read_own_step(given(9), 0, limits).micro_batches.size(), 3u);
  EXPECT_THROW(read_own_step(given(0), 0, limits), SetupError);
}

TEST(OwnRows, AreBatchedAsThoseOfADataset) {
  constexpr int32_t kRows = 7;
  Config config = small_job();
  config.num_epochs = 2;
  config.seed = 5;
  OwnData data{.rows = kRows, .row = [](int64_t row, OwnBatch& document) {
                 document.token_ids.assign(static_cast<size_t>(1 + row % 4), static_cast<int32_t>(row));
               }};
  const std::unique_ptr<RunData> rows = own_data(config, std::move(data), kVocabulary);
  const BatchPlan plan(config, kRows);
  ASSERT_EQ(rows->steps_total(), plan.steps_total());
  EXPECT_EQ(rows->micro_batches_max(), plan.micro_batches_max());
  EXPECT_EQ(rows->tokens_max(2), 8);
  std::vector<int32_t> in_order(kRows);
  std::iota(in_order.begin(), in_order.end(), 0);
  std::vector<int32_t> seen;
  for (int64_t step = 0; step < plan.steps_total(); ++step) {
    const StepData given = rows->training(step);
    const auto wanted = plan.rows_of(step);
    ASSERT_EQ(given.micro_batches.size(), wanted.size());
    for (size_t m = 0; m < wanted.size(); ++m) {
      ASSERT_EQ(given.micro_batches[m].document_starts.size(), wanted[m].size() + 1);
      for (size_t d = 0; d < wanted[m].size(); ++d) {
        const auto begin = static_cast<size_t>(given.micro_batches[m].document_starts[d]);
        EXPECT_EQ(given.micro_batches[m].token_ids[begin], wanted[m][d]);
        if (step < plan.steps_per_epoch()) seen.push_back(given.micro_batches[m].token_ids[begin]);
      }
    }
  }
  EXPECT_NE(seen, in_order) << "nothing was shuffled, and the order above was tested by nothing";
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, in_order);
}

TEST(OwnRows, ThatAreNoneAreRefused) {
  Config config = small_job();
  EXPECT_THROW(own_data(config, {.rows = 0, .row = [](int64_t, OwnBatch&) {}}, kVocabulary), SetupError);
}

}  // namespace
}  // namespace sluice::train
