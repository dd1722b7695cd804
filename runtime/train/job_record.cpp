#include "runtime/train/job_record.h"

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

const std::string kCrossEntropy = "cross_entropy";

std::string_view name_of(LearningRateSchedule schedule) {
  switch (schedule) {
    case LearningRateSchedule::constant:
      return "constant";
    case LearningRateSchedule::linear:
      return "linear";
    case LearningRateSchedule::cosine:
      return "cosine";
  }
  return "?";
}

template <class Value>
nlohmann::ordered_json or_null(const std::optional<Value>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

// Raised or lowered between two runs by people who know why.
nlohmann::ordered_json changeable(const Config& config) {
  return {
      {"base_model", std::filesystem::absolute(config.base_model).lexically_normal().string()},
      {"num_epochs", or_null(config.num_epochs)},
      {"max_steps", or_null(config.max_steps)},
      {"learning_rate", config.learning_rate},
      {"lr_scheduler", name_of(config.lr_scheduler)},
      {"warmup_steps", config.warmup_steps},
      {"warmup_ratio", config.warmup_ratio},
      {"weight_decay", config.weight_decay},
      {"adam_beta1", config.adam_beta1},
      {"adam_beta2", config.adam_beta2},
      {"adam_epsilon", config.adam_epsilon},
      {"max_grad_norm", config.max_grad_norm},
      {"fp16_growth_interval", config.fp16_growth_interval},
  };
}

std::string shown(const nlohmann::json& value) {
  if (value.is_null()) return "not set";
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

nlohmann::ordered_json record_of(const Config& config) {
  return {
      {"compute_dtype", name_of(config.compute_dtype)},
      {"update_rule", name_of(config.update_rule)},
      {"optimizer_state", name_of(config.offload.optimizer_state)},
      {"adapter", config.adapter == Adapter::lora},
      {"seed", config.seed},
      {"micro_batch_size", config.micro_batch_size},
      {"gradient_accumulation_steps", config.gradient_accumulation_steps},
      {"sequence_len", config.sequence_len},
      {"sample_packing", config.sample_packing},
      {"val_set_size", config.val_set_size},
      {"train_on_inputs", config.train_on_inputs},
      {"shuffle_merged_datasets", config.shuffle_merged_datasets},
      {"curriculum_sampling", config.sequential_order},
      {"loss", config.own_loss.empty() ? kCrossEntropy : config.own_loss},
      {"changeable", changeable(config)},
  };
}

void refuse_other_record(const nlohmann::json& recorded, const nlohmann::ordered_json& ours, const std::string& what) {
  for (const auto& [key, value] : ours.items()) {
    if (key == "changeable") continue;
    // What older versions did not record, they had one value of.
    nlohmann::json before = value;
    if (key == "update_rule") before = name_of(UpdateRule::adamw);
    if (key == "optimizer_state") before = name_of(MomentFormat::f32);
    if (key == "loss") before = kCrossEntropy;
    if (recorded.contains(key)) before = recorded[key];
    if (nlohmann::json(value) == before) continue;
    throw SetupError(
        what + " was written by another job: " + key + " is " + shown(before) + " there and " + shown(value) + " here",
        "give the same values as when the job began, or start anew in another output_dir");
  }
}

std::vector<std::string> changes_since(const nlohmann::json& recorded, const Config& config) {
  std::vector<std::string> changes;
  const nlohmann::json before = recorded.value("changeable", nlohmann::json::object());
  const nlohmann::ordered_json now = changeable(config);
  for (const auto& [key, value] : now.items())
    if (before.contains(key) && before[key] != nlohmann::json(value))
      changes.push_back("resuming with " + key + " " + shown(value) + ", the checkpoint was trained with " +
                        shown(before[key]));
  return changes;
}

}  // namespace sluice::train
