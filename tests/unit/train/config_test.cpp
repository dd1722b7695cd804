// Jobs that are right: defaults, every key, other spellings, overrides.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "runtime/train/config_keys.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

using ConfigTest = JobFolder;

TEST_F(ConfigTest, a_minimal_job_gets_the_documented_defaults) {
  ::setenv("XDG_CACHE_HOME", "/cache", 1);
  const Config config = load(minimal());
  EXPECT_EQ(config.file, "job.yaml");
  EXPECT_EQ(config.base_model, "model");
  EXPECT_EQ(config.adapter, Adapter::none);
  ASSERT_EQ(config.datasets.size(), 1u);
  EXPECT_EQ(config.datasets[0].path, "data.jsonl");
  EXPECT_EQ(config.datasets[0].type, DatasetType::alpaca);
  EXPECT_EQ(config.dataset_prepared_path, "/cache/sluice/datasets");
  EXPECT_EQ(config.val_set_size, 0);
  EXPECT_EQ(config.sequence_len, 2048);
  EXPECT_FALSE(config.sample_packing);
  EXPECT_EQ(config.micro_batch_size, 1);
  EXPECT_EQ(config.gradient_accumulation_steps, 1);
  EXPECT_EQ(config.num_epochs, 1.0);
  EXPECT_EQ(config.max_steps, std::nullopt);
  EXPECT_EQ(config.learning_rate, 2e-5);
  EXPECT_EQ(config.lr_scheduler, LearningRateSchedule::cosine);
  EXPECT_EQ(config.update_rule, UpdateRule::adamw);
  EXPECT_EQ(config.adam_beta2, 0.999);
  EXPECT_EQ(config.max_grad_norm, 1.0);
  EXPECT_EQ(config.compute_dtype, Dtype::f32);
  EXPECT_EQ(config.seed, 42u);
  EXPECT_EQ(config.output_dir, "model-out");
  EXPECT_EQ(config.offload.nvme_path, std::vector<std::filesystem::path>{"model-out"});
  EXPECT_EQ(config.offload.max_gpu, std::nullopt);
  EXPECT_EQ(config.offload.optimizer_state, MomentFormat::f32);
  EXPECT_TRUE(config.notes.empty());
}

TEST_F(ConfigTest, prepared_data_goes_below_home_without_xdg_cache_home) {
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/people/ada", 1);
  EXPECT_EQ(load(minimal()).dataset_prepared_path, "/people/ada/.cache/sluice/datasets");
  EXPECT_EQ(load(minimal("dataset_prepared_path: ~/prepared\n")).dataset_prepared_path, "/people/ada/prepared");
  ::unsetenv("HOME");
  EXPECT_EQ(refusal(minimal()),
            "job.yaml: neither HOME nor XDG_CACHE_HOME says where prepared data may lie\n"
            "  fix: add dataset_prepared_path: FOLDER");
  ::setenv("HOME", "/people/ada", 1);
}

TEST_F(ConfigTest, every_key_is_read) {
  std::filesystem::create_directory("adapter");
  std::filesystem::create_directory("checkpoint-7");
  const Config config = load(R"(base_model: ./model
adapter: lora
lora_r: 8
lora_alpha: 12.5
peft_use_rslora: true
peft_use_dora: true
lora_dropout: 0.1
lora_target_modules: [q_proj, v_proj]
lora_target_linear: true
lora_model_dir: adapter
datasets:
  - path: data.jsonl
    type: chat_template
  - {path: ., type: completion}
dataset_prepared_path: prepared
val_set_size: 20
sequence_len: 512
sample_packing: yes
train_on_inputs: true
shuffle_merged_datasets: false
curriculum_sampling: true
micro_batch_size: 3
gradient_accumulation_steps: 4
num_epochs: 2.5
max_steps: 77
learning_rate: 1e-4
lr_scheduler: linear
warmup_steps: 10
optimizer: adamw_torch_fused
weight_decay: 0.01
adam_beta1: 0.8
adam_beta2: 0.95
adam_epsilon: 1e-6
max_grad_norm: 0
bf16: true
fp16: false
load_in_4bit: false
seed: 7
output_dir: out
save_steps: 50
save_total_limit: 3
eval_steps: 25
logging_steps: 5
resume_from_checkpoint: checkpoint-7
auto_resume_from_checkpoints: true
device: emulated
deterministic: false
offload:
  params: disk
  gradients: device
  optimizer: host
  activations: recompute
  optimizer_state: fp32
  nvme_path: [a, b]
  max_gpu: 22GiB
  max_cpu: 4096MB
  enospc_timeout: 1.5h
  max_disk: 1.5 TiB
  prefetch: 4
  io_backend: thread
)");
  EXPECT_EQ(config.adapter, Adapter::lora);
  EXPECT_EQ(config.lora_r, 8);
  EXPECT_EQ(config.lora_alpha, 12.5);
  EXPECT_EQ(config.peft_use_rslora, true);
  EXPECT_EQ(config.peft_use_dora, true);
  EXPECT_EQ(config.lora_dropout, 0.1);
  EXPECT_EQ(config.lora_target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_TRUE(config.lora_target_linear);
  EXPECT_EQ(config.lora_model_dir, "adapter");
  ASSERT_EQ(config.datasets.size(), 2u);
  EXPECT_EQ(config.datasets[0].type, DatasetType::chat_template);
  EXPECT_EQ(config.datasets[1].type, DatasetType::completion);
  EXPECT_EQ(config.dataset_prepared_path, "prepared");
  EXPECT_EQ(config.val_set_size, 20);
  EXPECT_EQ(config.sequence_len, 512);
  EXPECT_TRUE(config.sample_packing);
  EXPECT_TRUE(config.train_on_inputs);
  EXPECT_FALSE(config.shuffle_merged_datasets);
  EXPECT_TRUE(config.sequential_order);
  EXPECT_EQ(config.micro_batch_size, 3);
  EXPECT_EQ(config.gradient_accumulation_steps, 4);
  EXPECT_EQ(config.num_epochs, 2.5);
  EXPECT_EQ(config.max_steps, 77);
  EXPECT_EQ(config.learning_rate, 1e-4);
  EXPECT_EQ(config.lr_scheduler, LearningRateSchedule::linear);
  EXPECT_EQ(config.warmup_steps, 10);
  EXPECT_EQ(config.update_rule, UpdateRule::adamw);
  EXPECT_EQ(config.weight_decay, 0.01);
  EXPECT_EQ(config.adam_beta1, 0.8);
  EXPECT_EQ(config.adam_beta2, 0.95);
  EXPECT_EQ(config.adam_epsilon, 1e-6);
  EXPECT_EQ(config.max_grad_norm, 0);
  EXPECT_EQ(config.compute_dtype, Dtype::bf16);
  EXPECT_EQ(config.seed, 7u);
  EXPECT_EQ(config.output_dir, "out");
  EXPECT_EQ(config.save_steps, 50);
  EXPECT_EQ(config.save_total_limit, 3);
  EXPECT_EQ(config.eval_steps, 25);
  EXPECT_EQ(config.logging_steps, 5);
  EXPECT_EQ(config.resume_from_checkpoint, "checkpoint-7");
  EXPECT_TRUE(config.auto_resume_from_checkpoints);
  EXPECT_EQ(config.device, DeviceKind::emulated);
  EXPECT_FALSE(config.deterministic);
  EXPECT_EQ(config.offload.params, Residence::disk);
  EXPECT_EQ(config.offload.gradients, Residence::device);
  EXPECT_EQ(config.offload.optimizer, Residence::host);
  EXPECT_EQ(config.offload.activations, ActivationFate::recompute);
  EXPECT_EQ(config.offload.nvme_path, (std::vector<std::filesystem::path>{"a", "b"}));
  EXPECT_EQ(config.offload.max_gpu, GiB(22));
  EXPECT_EQ(config.offload.max_cpu, Bytes{4096000000});
  EXPECT_EQ(config.offload.enospc_timeout, std::chrono::minutes(90));
  EXPECT_EQ(config.offload.max_disk, GiB(1536));
  EXPECT_EQ(config.offload.prefetch, 4);
  EXPECT_EQ(config.offload.io_backend, "thread");
}

TEST_F(ConfigTest, a_llama_factory_job_means_the_same) {
  const Config config = load(R"(model_name_or_path: model
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
datasets: [{path: data.jsonl, type: alpaca}]
template: qwen
cutoff_len: 1024
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: saves
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
report_to: none
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
packing: true
neat_packing: true
val_size: 0.1
eval_strategy: steps
eval_steps: 500
optim: adamw_torch
flash_attn: auto
train_on_prompt: true
disable_shuffling: true
)");
  EXPECT_EQ(config.base_model, "model");
  EXPECT_EQ(config.adapter, Adapter::lora);
  EXPECT_EQ(config.lora_r, 8);
  EXPECT_EQ(config.lora_alpha, 16) << "LLaMA-Factory's default is twice the rank";
  EXPECT_TRUE(config.lora_target_linear);
  EXPECT_TRUE(config.lora_target_modules.empty());
  EXPECT_EQ(config.sequence_len, 1024);
  EXPECT_EQ(config.micro_batch_size, 2);
  EXPECT_EQ(config.num_epochs, 3.0);
  EXPECT_EQ(config.lr_scheduler, LearningRateSchedule::cosine);
  EXPECT_EQ(config.warmup_ratio, 0.1);
  EXPECT_TRUE(config.sample_packing);
  EXPECT_EQ(config.val_set_size, 0.1);
  EXPECT_TRUE(config.train_on_inputs);
  EXPECT_TRUE(config.sequential_order);
  const auto noted = [&](const std::string& start) {
    return std::any_of(config.notes.begin(), config.notes.end(),
                       [&](const std::string& note) { return note.starts_with(start); });
  };
  EXPECT_TRUE(noted("job.yaml:9:1: template changes nothing here: the chat template of base_model's own"));
  EXPECT_TRUE(noted("job.yaml:16:1: plot_loss changes nothing here: "));
  EXPECT_TRUE(noted("job.yaml:5:1: lora_alpha is not given"));
}

TEST_F(ConfigTest, what_an_axolotl_template_leaves_empty_is_no_setting) {
  const Config config = load(minimal(R"(model_type: AutoModelForCausalLM
tokenizer_type: AutoTokenizer
load_in_8bit: false
load_in_4bit: false
strict: false
adapter:
lora_model_dir:
lora_r:
lora_target_linear:
lora_fan_in_fan_out:
wandb_project:
wandb_entity: ""
gradient_checkpointing: true
early_stopping_patience:
resume_from_checkpoint:
local_rank:
xformers_attention:
flash_attention: true
deepspeed:
fsdp: []
fsdp_config: {}
special_tokens:
save_total_limit:
save_strategy: steps
chat_template: tokenizer_default
bf16: auto
fp16:
)"));
  EXPECT_EQ(config.adapter, Adapter::none);
  EXPECT_EQ(config.compute_dtype, Dtype::bf16);
  EXPECT_EQ(config.notes.size(), 4u) << "model_type, tokenizer_type, gradient_checkpointing, flash_attention";
}

TEST_F(ConfigTest, a_key_that_says_no_needs_nothing_beside_it) {
  // With any other value each of them is refused beside the others.
  const Config config = load(minimal(R"(adapter: ''
lora_r: 0
lora_target_modules: []
lora_target_linear: false
lora_dropout: 0.0
lora_model_dir: ''
quantization_bit: 0
bnb_4bit_use_double_quant: false
bnb_4bit_compute_dtype: ''
dataset_prepared_path: ''
save_total_limit: 0
checkpoint: in_place
offload:
)"));
  EXPECT_EQ(config.adapter, Adapter::none);
  EXPECT_EQ(config.low_bits, std::nullopt);
  EXPECT_EQ(config.dataset_prepared_path, load(minimal()).dataset_prepared_path);
  EXPECT_EQ(config.save_total_limit, load(minimal()).save_total_limit);
  EXPECT_EQ(config.offload.params, Residence::automatic);
  EXPECT_TRUE(config.notes.empty());
}

TEST_F(ConfigTest, a_tilde_is_the_home_folder_where_there_is_one) {
  const auto output_dir = [](const std::string& text) {
    return load(minimal("output_dir: '" + text + "'\n")).output_dir;
  };
  ::setenv("HOME", "/people/ada", 1);
  EXPECT_EQ(output_dir("~/out"), "/people/ada/out");
  EXPECT_EQ(output_dir("~"), "/people/ada");
  EXPECT_EQ(output_dir("~bob/out"), "~bob/out");
  ::setenv("XDG_CACHE_HOME", "/cache", 1);
  ::unsetenv("HOME");
  EXPECT_EQ(output_dir("~/out"), "~/out");
  ::setenv("HOME", "/people/ada", 1);
}

TEST_F(ConfigTest, fp16_computes_in_f16) {
  EXPECT_EQ(load(minimal("")).compute_dtype, Dtype::f32);
  const Config config = load(minimal("fp16: true\n"));
  EXPECT_EQ(config.compute_dtype, Dtype::f16);
  EXPECT_EQ(config.fp16_init_scale, 65536);
  EXPECT_EQ(config.fp16_growth_interval, 2000);
  for (const char* bf16 : {"bf16: auto\n", "bf16: false\n", "bf16:\n"})
    EXPECT_EQ(load(minimal(std::string(bf16) + "fp16: true\n")).compute_dtype, Dtype::f16) << bf16;
  EXPECT_EQ(load(minimal("bf16: auto\nfp16: false\n")).compute_dtype, Dtype::bf16);
  const Config other = load(minimal("fp16: true\nfp16_init_scale: 128\nfp16_growth_interval: 5\n"));
  EXPECT_EQ(other.fp16_init_scale, 128);
  EXPECT_EQ(other.fp16_growth_interval, 5);
}

TEST_F(ConfigTest, every_alias_is_read_as_its_key) {
  for (const Key& key : keys())
    for (const std::string_view alias : key.aliases) {
      ASSERT_EQ(find_key(alias), &key) << alias;
      const std::string both = std::string(key.name) + ": 1\n" + std::string(alias) + ": 1\n";
      EXPECT_NE(refusal(both).find("are one key under two names"), std::string::npos) << both << refusal(both);
    }
}

TEST_F(ConfigTest, targets_are_a_list_a_name_or_names_with_commas) {
  const std::string lora = minimal("adapter: lora\nlora_r: 4\n");
  using Names = std::vector<std::string>;
  EXPECT_EQ(load(lora + "lora_target_modules: [q_proj, k_proj]\n").lora_target_modules, (Names{"q_proj", "k_proj"}));
  EXPECT_EQ(load(lora + "lora_target: q_proj, k_proj ,v_proj\n").lora_target_modules,
            (Names{"q_proj", "k_proj", "v_proj"}));
  EXPECT_EQ(load(lora + "lora_target_modules: q_proj\n").lora_target_modules, (Names{"q_proj"}));
  EXPECT_TRUE(load(lora + "lora_target_modules: all-linear\n").lora_target_linear);
}

TEST_F(ConfigTest, low_bits_are_asked_for_in_the_words_of_axolotl_transformers_and_llama_factory) {
  using models::LowBit, models::LowBitFormat;
  const auto bits = [&](const std::string& yaml) {
    return load(minimal(yaml + "lora_r: 4\nlora_target_linear: true\n")).low_bits;
  };
  EXPECT_EQ(bits("adapter: lora\n"), std::nullopt);
  EXPECT_EQ(bits("adapter: lora\nload_in_4bit: false\n"), std::nullopt);
  EXPECT_EQ(bits("adapter: qlora\n"), (LowBitFormat{LowBit::nf4, true}));
  EXPECT_EQ(bits("adapter: qlora\nload_in_4bit: true\nload_in_8bit: false\n"), (LowBitFormat{LowBit::nf4, true}));
  EXPECT_EQ(bits("adapter: lora\nload_in_4bit: true\nbnb_4bit_quant_type: fp4\nbnb_4bit_use_double_quant: false\n"),
            (LowBitFormat{LowBit::fp4, false}));
  EXPECT_EQ(bits("adapter: lora\nload_in_8bit: true\n"), (LowBitFormat{LowBit::int8, false}));
  EXPECT_EQ(bits("adapter: lora\nload_in_8bit: true\nbf16: true\nbnb_4bit_compute_dtype: bf16\n"),
            (LowBitFormat{LowBit::int8, false}));
  EXPECT_EQ(bits("finetuning_type: lora\nquantization_bit: 4\nquantization_method: bnb\ndouble_quantization: true\n"),
            (LowBitFormat{LowBit::nf4, true}));
  EXPECT_EQ(bits("bf16: true\nadapter: qlora\nbnb_4bit_compute_dtype: torch.bfloat16\n"),
            (LowBitFormat{LowBit::nf4, true}));
  EXPECT_EQ(bits("fp16: true\nadapter: qlora\nbnb_4bit_compute_dtype: float16\n"), (LowBitFormat{LowBit::nf4, true}));
}

TEST_F(ConfigTest, an_existing_adapter_needs_no_rank_and_no_target) {
  std::filesystem::create_directory("adapter");
  EXPECT_EQ(load(minimal("adapter: lora\nlora_model_dir: adapter\n")).lora_model_dir, "adapter");
}

TEST_F(ConfigTest, an_optimizer_is_a_rule_and_a_format_of_states) {
  const auto expect_all = [&](UpdateRule rule, MomentFormat states, std::initializer_list<std::string> names) {
    for (const std::string& name : names) {
      const Config config = load(minimal("optimizer: " + name + "\n"));
      EXPECT_EQ(config.update_rule, rule) << name;
      EXPECT_EQ(config.offload.optimizer_state, states) << name;
      EXPECT_EQ(config.notes.size(), name.starts_with("paged") ? 1U : 0U) << name;
    }
  };
  expect_all(UpdateRule::adamw, MomentFormat::f32, {"adamw_torch", "adamw_torch_fused", "adamw", "paged_adamw_32bit"});
  expect_all(UpdateRule::adamw, MomentFormat::int8, {"adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"});
  expect_all(UpdateRule::lion, MomentFormat::f32, {"lion_32bit", "lion_pytorch", "paged_lion_32bit"});
  expect_all(UpdateRule::lion, MomentFormat::int8, {"lion_8bit", "paged_lion_8bit"});
  const auto format = [&](const std::string& name) {
    return load(minimal("offload: {optimizer_state: " + name + "}\n")).offload.optimizer_state;
  };
  EXPECT_EQ(format("fp32"), MomentFormat::f32);
  EXPECT_EQ(format("bf16"), MomentFormat::bf16);
  EXPECT_EQ(format("8bit"), MomentFormat::int8);
  const Config both = load(minimal("optimizer: lion_8bit\noffload: {optimizer_state: 8bit}\n"));
  EXPECT_EQ(both.update_rule, UpdateRule::lion);
  EXPECT_EQ(both.offload.optimizer_state, MomentFormat::int8);
}

TEST_F(ConfigTest, warmup_steps_below_one_is_a_share_as_in_transformers) {
  const Config config = load(minimal("warmup_steps: 0.03\n"));
  EXPECT_EQ(config.warmup_ratio, 0.03);
  EXPECT_EQ(config.warmup_steps, 0);
}

TEST_F(ConfigTest, max_steps_minus_one_leaves_it_to_the_epochs) {
  const Config config = load(minimal("max_steps: -1\nnum_train_epochs: 2\n"));
  EXPECT_EQ(config.max_steps, std::nullopt);
  EXPECT_EQ(config.num_epochs, 2.0);
  EXPECT_EQ(load(minimal("max_steps: 9\n")).num_epochs, std::nullopt);
}

TEST_F(ConfigTest, resume_true_means_the_newest_checkpoint) {
  EXPECT_TRUE(load(minimal("resume_from_checkpoint: true\n")).auto_resume_from_checkpoints);
  EXPECT_FALSE(load(minimal("resume_from_checkpoint: false\n")).auto_resume_from_checkpoints);
}

TEST_F(ConfigTest, a_path_may_be_one_text_or_a_list) {
  EXPECT_EQ(load(minimal("offload: {nvme_path: /mnt/a}\n")).offload.nvme_path,
            std::vector<std::filesystem::path>{"/mnt/a"});
  EXPECT_EQ(load(minimal("offload: {emulate: configs/machine/rtx4090_desktop.yaml}\n")).offload.emulate,
            "configs/machine/rtx4090_desktop.yaml");
}

TEST_F(ConfigTest, the_command_line_goes_over_the_file) {
  const std::string job = minimal("micro_batch_size: 2\noffload: {max_cpu: 1GiB, params: disk}\n");
  const Config config = load(job, {"per_device_train_batch_size=8", "offload.max_cpu=4GiB", "adapter=lora", "lora_r=4",
                                   "lora_target_modules=[q_proj]", "output_dir=elsewhere"});
  EXPECT_EQ(config.micro_batch_size, 8);
  EXPECT_EQ(config.offload.max_cpu, GiB(4));
  EXPECT_EQ(config.offload.params, Residence::disk);
  EXPECT_EQ(config.lora_target_modules, std::vector<std::string>{"q_proj"});
  EXPECT_EQ(config.output_dir, "elsewhere");
}

TEST_F(ConfigTest, nothing_on_the_command_line_takes_a_value_back) {
  const std::string job = minimal("max_steps: 5\n");
  EXPECT_EQ(load(job, {"max_steps="}).max_steps, std::nullopt);
  EXPECT_EQ(load(job, {"max_steps=null"}).num_epochs, 1.0);
}

TEST_F(ConfigTest, keys_of_others_at_the_value_that_is_ours_are_accepted_in_a_list_too) {
  const Config config = load(
      "base_model: model\nlearning_rate: 1e-5\nsave_strategy: [steps]\ndatasets:\n"
      "  - {path: data.jsonl, type: alpaca, field: text}\ndataset_dir: data\n");
  EXPECT_EQ(config.datasets[0].field, "");
  EXPECT_EQ(config.notes, std::vector<std::string>{"job.yaml:6:1: dataset_dir changes nothing here: `datasets` are "
                                                   "named by their paths"});
}

TEST_F(ConfigTest, dataset_keys_at_the_value_that_is_ours_are_accepted) {
  const Config config = load(
      "base_model: model\nlearning_rate: 1e-5\ndatasets:\n"
      "  - {path: data.jsonl, type: chat_template, split: train, field_messages: messages, name:, "
      "roles_to_train: [assistant], train_on_eos: turn}\n");
  EXPECT_EQ(config.datasets[0].type, DatasetType::chat_template);
}

TEST_F(ConfigTest, axolotls_chat_keys_are_read) {
  const Config config = load(
      "base_model: model\nlearning_rate: 1e-5\ndatasets:\n"
      "  - path: data.jsonl\n    type: chat_template\n    field_messages: conversations\n"
      "    message_property_mappings: {role: from, content: value, mood:}\n"
      "    roles: {assistant: [gpt, model], user: human, system:}\n"
      "  - {path: data.jsonl, type: chat_template, message_field_role: from, message_field_content: value}\n"
      "  - {path: data.jsonl, type: completion, field: content}\n"
      "  - {path: data.jsonl, type: chat_template}\n");
  using Names = std::map<std::string, std::string>;
  const DatasetConfig& chats = config.datasets[0];
  EXPECT_EQ(chats.field_messages, "conversations");
  EXPECT_EQ(chats.message_properties, (Names{{"role", "from"}, {"content", "value"}}));
  EXPECT_EQ(chats.roles,
            (std::map<std::string, std::vector<std::string>>{{"assistant", {"gpt", "model"}}, {"user", {"human"}}}));
  EXPECT_EQ(config.datasets[1].message_properties, chats.message_properties) << "Axolotl's older spelling";
  EXPECT_EQ(config.datasets[2].field, "content");
  EXPECT_EQ(config.datasets[3].field_messages, "");
  EXPECT_TRUE(config.datasets[3].message_properties.empty() && config.datasets[3].roles.empty());
}

TEST_F(ConfigTest, axolotls_harmless_keys_are_noted) {
  write("model/special_tokens_map.json", R"({"eos_token": "</s>"})");
  const Config config = load(minimal(R"(loss_watchdog_threshold: 5.0
loss_watchdog_patience: 3
eval_max_new_tokens: 128
overwrite_output_dir: true
special_tokens: {eos_token: </s>, pad_token: <pad>, unk_token:}
evals_per_epoch:
saves_per_epoch: 0
)"));
  const std::vector<std::string> notes = {
      "job.yaml:5:1: loss_watchdog_threshold changes nothing here: a loss that is not finite stops the run, a large "
      "one "
      "does not",
      "job.yaml:6:1: loss_watchdog_patience changes nothing here: a loss that is not finite stops the run, a large one "
      "does not",
      "job.yaml:7:1: eval_max_new_tokens changes nothing here: validation measures the loss and generates nothing",
      "job.yaml:8:1: overwrite_output_dir changes nothing here: nothing is overwritten; an output_dir that is not "
      "empty "
      "is refused: empty it first, or give another",
      "job.yaml:9:46: special_tokens.pad_token changes nothing here: rows are laid end to end, without padding"};
  EXPECT_EQ(config.notes, notes);
  EXPECT_EQ(config.evals_per_epoch + config.saves_per_epoch, 0);
}

TEST_F(ConfigTest, keys_are_described_for_the_help) {
  const std::string text = describe_keys();
  EXPECT_NE(text.find("  micro_batch_size (or per_device_train_batch_size)\n"), std::string::npos);
  EXPECT_NE(text.find("  offload.max_cpu\n"), std::string::npos);
  EXPECT_NE(text.find("  datasets, each with path, type, field, field_messages, message_property_mappings, roles\n"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::train
