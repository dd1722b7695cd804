// Which settings a job may change when it goes on from a checkpoint, and which not.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/core/result.h"
#include "runtime/train/job_record.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

class CheckpointRecordTest : public JobFolder {
 protected:
  // As it comes back from trainer_state.json.
  nlohmann::json recorded(const std::string& more = "") {
    return nlohmann::json::parse(record_of(load(minimal(more))).dump());
  }
  std::string refusal_of_resuming(const nlohmann::json& record, const std::string& more) {
    try {
      refuse_other_record(record, record_of(load(minimal(more))), "checkpoint-5");
    } catch (const SetupError& error) {
      return error.what();
    }
    return "accepted";
  }
};

TEST_F(CheckpointRecordTest, the_same_job_goes_on_without_a_word) {
  const std::string settings =
      "weight_decay: 0.1\nadam_beta2: 0.95\nval_set_size: 0.05\nwarmup_ratio: 0.03\nmax_steps: 9\n";
  EXPECT_EQ(refusal_of_resuming(recorded(settings), settings), "accepted");
  EXPECT_TRUE(changes_since(recorded(settings), load(minimal(settings))).empty());
}

TEST_F(CheckpointRecordTest, what_would_change_the_rows_or_the_arithmetic_is_refused_by_name) {
  const std::pair<const char*, const char*> others[] = {
      {"bf16: true\n", "compute_dtype is f32 there and bf16 here"},
      {"adapter: lora\nlora_r: 4\nlora_target_linear: true\n", "adapter is false there and true here"},
      {"seed: 7\n", "seed is 42 there and 7 here"},
      {"micro_batch_size: 2\n", "micro_batch_size is 1 there and 2 here"},
      {"gradient_accumulation_steps: 3\n", "gradient_accumulation_steps is 1 there and 3 here"},
      {"sequence_len: 512\n", "sequence_len is 2048 there and 512 here"},
      {"sample_packing: true\n", "sample_packing is false there and true here"},
      {"val_set_size: 0.1\n", "val_set_size is 0.0 there and 0.1 here"},
      {"train_on_inputs: true\n", "train_on_inputs is false there and true here"},
      {"shuffle_merged_datasets: false\n", "shuffle_merged_datasets is true there and false here"},
      {"curriculum_sampling: true\n", "curriculum_sampling is false there and true here"},
  };
  for (const auto& [more, expected] : others)
    EXPECT_EQ(refusal_of_resuming(recorded(), more),
              "checkpoint-5 was written by another job: " + std::string(expected) +
                  "\n  fix: give the same values as when the job began, or start anew in another output_dir");
}

TEST_F(CheckpointRecordTest, every_hyper_parameter_that_changed_is_said) {
  const Config config = load(
      "base_model: model\ndatasets: [{path: data.jsonl, type: alpaca}]\nlearning_rate: 1e-4\nlr_scheduler: linear\n"
      "num_epochs: 2\nmax_steps: 50\nwarmup_steps: 3\nweight_decay: 0.1\nadam_beta1: 0.8\nadam_beta2: 0.95\n"
      "adam_epsilon: 1e-6\nmax_grad_norm: 0.5\n");
  const nlohmann::json before = recorded();
  EXPECT_EQ(changes_since(before, config),
            (std::vector<std::string>{
                "resuming with num_epochs 2.0, the checkpoint was trained with 1.0",
                "resuming with max_steps 50, the checkpoint was trained with not set",
                "resuming with learning_rate 0.0001, the checkpoint was trained with 2e-05",
                "resuming with lr_scheduler linear, the checkpoint was trained with cosine",
                "resuming with warmup_steps 3, the checkpoint was trained with 0",
                "resuming with weight_decay 0.1, the checkpoint was trained with 0.0",
                "resuming with adam_beta1 0.8, the checkpoint was trained with 0.9",
                "resuming with adam_beta2 0.95, the checkpoint was trained with 0.999",
                "resuming with adam_epsilon 1e-06, the checkpoint was trained with 1e-08",
                "resuming with max_grad_norm 0.5, the checkpoint was trained with 1.0",
            }));
  EXPECT_NO_THROW(refuse_other_record(before, record_of(config), "checkpoint-5"));
}

TEST_F(CheckpointRecordTest, a_checkpoint_of_before_these_were_recorded_resumes) {
  nlohmann::json record = recorded();
  for (const char* key : {"sequence_len", "sample_packing", "val_set_size", "changeable"}) record.erase(key);
  EXPECT_EQ(refusal_of_resuming(record, "sequence_len: 512\n"), "accepted");
  EXPECT_TRUE(changes_since(record, load(minimal("weight_decay: 0.3\n"))).empty());
}

}  // namespace
}  // namespace sluice::train
