#include "runtime/train/config_keys.h"

#include <algorithm>

#include "models/nearest_name.h"
#include "runtime/train/config.h"

namespace sluice::train {

std::span<const Key> keys() {
  static const std::vector<Key> all = {
      {"base_model", {"model_name_or_path"}},
      {"adapter", {"finetuning_type"}},
      {"lora_r", {"lora_rank"}},
      {"lora_alpha", {}},
      {"peft_use_rslora", {"use_rslora"}},
      {"peft_use_dora", {"use_dora"}},
      {"lora_dropout", {}},
      {"lora_target_modules", {"lora_target"}},
      {"lora_target_linear", {}},
      {"lora_model_dir", {"adapter_name_or_path"}},
      {"load_in_4bit", {}},
      {"load_in_8bit", {}},
      {"quantization_bit", {}},
      {"bnb_4bit_quant_type", {"quantization_type"}},
      {"bnb_4bit_use_double_quant", {"double_quantization"}},
      {"bnb_4bit_compute_dtype", {}},
      {"datasets", {}},
      {"dataset", {}},
      {"dataset_dir", {}},
      {"max_samples", {}},
      {"dataset_prepared_path", {}},
      {"val_set_size", {"val_size"}},
      {"sequence_len", {"cutoff_len", "max_seq_length", "max_seq_len", "max_length", "model_max_length"}},
      {"sample_packing", {"packing"}},
      {"neat_packing", {}},
      {"train_on_inputs", {"train_on_prompt"}},
      {"shuffle_merged_datasets", {}},
      {"curriculum_sampling", {"disable_shuffling"}},
      {"micro_batch_size", {"per_device_train_batch_size"}},
      {"gradient_accumulation_steps", {}},
      {"num_epochs", {"num_train_epochs"}},
      {"max_steps", {}},
      {"learning_rate", {}},
      {"lr_scheduler", {"lr_scheduler_type"}},
      {"warmup_steps", {}},
      {"warmup_ratio", {}},
      {"optimizer", {"optim"}},
      {"weight_decay", {}},
      {"adam_beta1", {}},
      {"adam_beta2", {}},
      {"adam_epsilon", {}},
      {"max_grad_norm", {}},
      {"bf16", {}},
      {"fp16", {}},
      {"fp16_init_scale", {}},
      {"fp16_growth_interval", {}},
      {"seed", {}},
      {"output_dir", {}},
      {"save_steps", {}},
      {"save_total_limit", {}},
      {"save_only_model", {}},
      {"checkpoint", {}},
      {"eval_steps", {}},
      {"logging_steps", {}},
      {"report_to", {}},
      {"use_tensorboard", {}},
      {"resume_from_checkpoint", {}},
      {"auto_resume_from_checkpoints", {}},
      {"device", {}},
      {"deterministic", {"full_determinism"}},
      {"offload.params", {}},
      {"offload.gradients", {}},
      {"offload.optimizer", {}},
      {"offload.activations", {}},
      {"offload.update", {}},
      {"offload.optimizer_state", {}},
      {"offload.nvme_path", {}},
      {"offload.max_gpu", {}},
      {"offload.max_cpu", {}},
      {"offload.max_disk", {}},
      {"offload.enospc_timeout", {}},
      {"offload.prefetch", {}},
      {"offload.io_backend", {}},
      {"offload.emulate", {}},
  };
  return all;
}

const Key* find_key(std::string_view spelling) {
  for (const Key& key : keys())
    if (key.name == spelling || std::find(key.aliases.begin(), key.aliases.end(), spelling) != key.aliases.end())
      return &key;
  return nullptr;
}

std::string advice_for_unknown_key(std::string_view spelling, std::string_view prefix) {
  const std::string whole = std::string(prefix) + std::string(spelling);
  if (prefix.empty() && find_key("offload." + whole) != nullptr) return "put it under `offload:`";
  if (!prefix.empty() && find_key(spelling) != nullptr)
    return "it belongs at the left margin, not under `" + std::string(prefix.substr(0, prefix.size() - 1)) + ":`";
  std::vector<std::string_view> spellings;
  for (const Key& key : keys()) {
    if (key.name.starts_with("offload.") == prefix.empty()) continue;
    spellings.push_back(key.name.substr(prefix.size()));
    spellings.insert(spellings.end(), key.aliases.begin(), key.aliases.end());
  }
  if (prefix.empty()) spellings.push_back("offload");
  const std::string nearest = nearest_key(spelling, spellings);
  return nearest.empty() ? "remove it; `sluice train --help` lists the keys" : nearest;
}

std::string nearest_key(std::string_view spelling, std::span<const std::string_view> names) {
  const std::string nearest = models::nearest_name(spelling, names);
  const bool near = models::edit_distance(spelling, nearest) <= std::max<size_t>(2, spelling.size() / 3);
  return near ? "did you mean '" + nearest + "'?" : "";
}

std::string describe_keys() {
  std::string text;
  for (const Key& key : keys()) {
    text += "  " + std::string(key.name);
    if (key.name == "datasets")
      text += ", each with path, type, field, field_messages, message_property_mappings, roles";
    for (size_t i = 0; i < key.aliases.size(); ++i) text += (i == 0 ? " (or " : ", ") + std::string(key.aliases[i]);
    text += key.aliases.empty() ? "\n" : ")\n";
  }
  return text;
}

}  // namespace sluice::train
