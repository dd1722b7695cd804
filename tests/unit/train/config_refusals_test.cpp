// Jobs that are wrong, each with the whole message that its user gets.
#include <gtest/gtest.h>

#include "runtime/train/data.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

using ConfigRefusals = JobFolder;

struct Refusal {
  std::string more;  // from line 5 of the minimal job
  std::string message;
};

class MinimalJobWith : public JobFolder, public testing::WithParamInterface<Refusal> {};

TEST_P(MinimalJobWith, is_refused_with_this_message) {
  EXPECT_EQ(refusal(minimal(GetParam().more)), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    unknown_keys, MinimalJobWith,
    testing::Values(
        Refusal{"seed: 1\n  \nmicro_batch_siz: 2\n",
                "job.yaml:7:1: unknown key 'micro_batch_siz'\n  fix: did you mean 'micro_batch_size'?"},
        Refusal{"num_train_epoch: 2\n",
                "job.yaml:5:1: unknown key 'num_train_epoch'\n  fix: did you mean 'num_train_epochs'?"},
        Refusal{"offload:\n  optimiser: disk\n",
                "job.yaml:6:3: unknown key 'offload.optimiser'\n  fix: did you mean 'optimizer'?"},
        Refusal{"ofload: {}\n", "job.yaml:5:1: unknown key 'ofload'\n  fix: did you mean 'offload'?"},
        Refusal{"max_cpu: 4GiB\n", "job.yaml:5:1: unknown key 'max_cpu'\n  fix: put it under `offload:`"},
        Refusal{"offload:\n  seed: 3\n",
                "job.yaml:6:3: unknown key 'offload.seed'\n  fix: it belongs at the left margin, not under `offload:`"},
        Refusal{"colour: blue\n",
                "job.yaml:5:1: unknown key 'colour'\n  fix: remove it; `sluice train --help` lists the keys"}));

INSTANTIATE_TEST_SUITE_P(
    keys_given_twice, MinimalJobWith,
    testing::Values(
        Refusal{"seed: 1\nseed: 2\n", "job.yaml:6:1: 'seed' is given twice, first in line 5\n  fix: keep one"},
        Refusal{"micro_batch_size: 1\nper_device_train_batch_size: 1\n",
                "job.yaml:6:1: 'per_device_train_batch_size' and 'micro_batch_size' in line 5 are one key under two "
                "names\n  fix: keep one"},
        Refusal{"cutoff_len: 64\nmax_seq_length: 64\n",
                "job.yaml:6:1: 'max_seq_length' and 'cutoff_len' in line 5 are one key under two names\n  fix: keep "
                "one"},
        Refusal{"offload:\n  params: disk\n  params: host\n",
                "job.yaml:7:3: 'offload.params' is given twice, first in line 6\n  fix: keep one"},
        Refusal{"wandb_project:\nwandb_project:\n",
                "job.yaml:6:1: 'wandb_project' is given twice, first in line 5\n  fix: keep one"}));

INSTANTIATE_TEST_SUITE_P(
    wrong_types, MinimalJobWith,
    testing::Values(
        Refusal{"micro_batch_size: two\n",
                "job.yaml:5:19: micro_batch_size must be a whole number from 1 to 1073741824, not 'two'\n  fix: for "
                "example: micro_batch_size: 2"},
        Refusal{"max_steps: 1.5\n",
                "job.yaml:5:12: max_steps must be a whole number from 1, not '1.5'\n  fix: for example: max_steps: "
                "500"},
        Refusal{"weight_decay: [0.1]\n",
                "job.yaml:5:15: weight_decay must be a number from 0, not a list\n  fix: for example: weight_decay: "
                "0.01"},
        Refusal{"weight_decay: .nan\n",
                "job.yaml:5:15: weight_decay must be a number from 0, not '.nan'\n  fix: for example: weight_decay: "
                "0.01"},
        Refusal{"sample_packing: maybe\n",
                "job.yaml:5:17: sample_packing must be true or false, not 'maybe'\n  fix: for example: "
                "sample_packing: true"},
        Refusal{"lr_scheduler_type: cosin\n",
                "job.yaml:5:20: lr_scheduler_type must be constant, linear, cosine or constant_with_warmup, not "
                "'cosin'\n  fix: for example: lr_scheduler_type: constant"},
        Refusal{"output_dir: {a: b}\n",
                "job.yaml:5:13: output_dir must be a path, not a block of keys\n  fix: for example: output_dir: "
                "outputs/my-model"},
        Refusal{"offload: disk\n",
                "job.yaml:5:1: offload must be a block of keys, not 'disk'\n  fix: for example: offload: {params: "
                "disk, max_cpu: 4GiB}"},
        Refusal{"offload:\n  params: nvme\n",
                "job.yaml:6:11: offload.params must be auto, device, host or disk, not 'nvme'\n  fix: for example: "
                "offload.params: auto"},
        Refusal{"offload:\n  params: host\n  optimizer: device\n",
                "job.yaml:6:3: offload.params is elsewhere, and offload.optimizer: device updates in the "
                "device's memory alone\n  fix: remove offload.params, or use offload.optimizer: auto"},
        Refusal{"offload:\n  gradients: host\n  optimizer: device\n",
                "job.yaml:6:3: offload.gradients is elsewhere, and offload.optimizer: device updates in the "
                "device's memory alone\n  fix: remove offload.gradients, or use offload.optimizer: auto"},
        Refusal{"offload: {max_gpu: GiB}\n",
                "job.yaml:5:20: offload.max_gpu must be a size above 0 with its unit: KiB, MiB, GiB, TiB, KB, MB, GB "
                "or TB, not 'GiB'\n  fix: for example: offload.max_gpu: 22GiB"},
        Refusal{"offload: {max_gpu: infGiB}\n",
                "job.yaml:5:20: offload.max_gpu must be a size above 0 with its unit: KiB, MiB, GiB, TiB, KB, MB, GB "
                "or TB, not 'infGiB'\n  fix: for example: offload.max_gpu: 22GiB"},
        Refusal{"offload:\n  max_gpu: 22\n",
                "job.yaml:6:12: offload.max_gpu must be a size above 0 with its unit: KiB, MiB, GiB, TiB, KB, MB, GB "
                "or TB, not '22'\n  fix: for example: offload.max_gpu: 22GiB"},
        Refusal{
            "offload:\n  enospc_timeout: 30\n",
            "job.yaml:6:19: offload.enospc_timeout must be a time of at most 365d with its unit: s, min, h or d, not "
            "'30'\n  fix: for example: offload.enospc_timeout: 24h"},
        Refusal{
            "offload: {enospc_timeout: -1s}\n",
            "job.yaml:5:27: offload.enospc_timeout must be a time of at most 365d with its unit: s, min, h or d, not "
            "'-1s'\n  fix: for example: offload.enospc_timeout: 24h"},
        Refusal{
            "offload: {enospc_timeout: 366d}\n",
            "job.yaml:5:27: offload.enospc_timeout must be a time of at most 365d with its unit: s, min, h or d, not "
            "'366d'\n  fix: for example: offload.enospc_timeout: 24h"},
        Refusal{
            "offload: {enospc_timeout: [1h]}\n",
            "job.yaml:5:27: offload.enospc_timeout must be a time of at most 365d with its unit: s, min, h or d, not "
            "a list\n  fix: for example: offload.enospc_timeout: 24h"},
        Refusal{"checkpoint: one\n",
                "job.yaml:5:13: checkpoint must be two_sets or in_place, not 'one'\n  fix: for example: checkpoint: "
                "two_sets"},
        Refusal{"checkpoint: {in_place: true}\n",
                "job.yaml:5:13: checkpoint must be two_sets or in_place, not a block of keys\n  fix: for example: "
                "checkpoint: two_sets"},
        Refusal{"save_total_limit: 2\ncheckpoint: in_place\n",
                "job.yaml:5:1: save_total_limit is more than 1, and checkpoint: in_place has room for one\n  fix: "
                "remove it, or keep checkpoint: two_sets"},
        Refusal{"save_only_model: model\n",
                "job.yaml:5:18: save_only_model must be true or false, not 'model'\n  fix: for example: "
                "save_only_model: true"},
        Refusal{"save_only_model: []\n",
                "job.yaml:5:18: save_only_model must be true or false, not a list\n  fix: for example: "
                "save_only_model: true"},
        Refusal{"offload: {nvme_path: [/a, [b]]}\n",
                "job.yaml:5:27: offload.nvme_path must be a path or a list of paths, not a list\n  fix: for example: "
                "offload.nvme_path: [/mnt/nvme0, /mnt/nvme1]"},
        Refusal{"adapter: lora\nlora_r: 4\nlora_target_modules: [q_proj, '']\n",
                "job.yaml:7:22: lora_target_modules must be a name or a list of names, not a list\n  fix: for "
                "example: lora_target_modules: [q_proj, v_proj]"},
        Refusal{
            "adapter: lora\nlora_r: 4\nlora_target_modules: 'q_proj, ,v_proj'\n",
            "job.yaml:7:22: lora_target_modules must be a name or a list of names, not 'q_proj, ,v_proj'\n  fix: for "
            "example: lora_target_modules: [q_proj, v_proj]"},
        Refusal{"adapter: lora\nlora_r: 4\nlora_target_modules: {q_proj: true}\n",
                "job.yaml:7:22: lora_target_modules must be a name or a list of names, not a block of keys\n  fix: for "
                "example: lora_target_modules: [q_proj, v_proj]"},
        Refusal{"offload: {nvme_path: []}\n",
                "job.yaml:5:22: offload.nvme_path must be a path or a list of paths, not a list\n  fix: for example: "
                "offload.nvme_path: [/mnt/nvme0, /mnt/nvme1]"},
        Refusal{"offload: {nvme_path: [/a, '']}\n",
                "job.yaml:5:27: offload.nvme_path must be a path or a list of paths, not ''\n  fix: for example: "
                "offload.nvme_path: [/mnt/nvme0, /mnt/nvme1]"},
        Refusal{"max_steps: [1]\n",
                "job.yaml:5:12: max_steps must be a whole number from 1, not a list\n  fix: for example: max_steps: "
                "500"},
        Refusal{"bf16: [true]\n",
                "job.yaml:5:7: bf16 must be true or false, not a list\n  fix: for example: bf16: true"},
        Refusal{"output_dir: ''\n",
                "job.yaml:5:13: output_dir must be a path, not ''\n  fix: for example: output_dir: outputs/my-model"},
        Refusal{"micro_batch_size: " + std::string(70, 'x') + "\n",
                "job.yaml:5:19: micro_batch_size must be a whole number from 1 to 1073741824, not '" +
                    std::string(60, 'x') + "...'\n  fix: for example: micro_batch_size: 2"}));

INSTANTIATE_TEST_SUITE_P(
    values_out_of_range, MinimalJobWith,
    testing::Values(
        Refusal{"val_set_size: -0.1\n",
                "job.yaml:5:15: val_set_size must be a number from 0, not '-0.1'\n  fix: for example: val_set_size: "
                "0.05"},
        Refusal{"val_set_size: 1.5\n",
                "job.yaml:5:15: val_set_size must be a share below 1 or a whole number of rows, not '1.5'\n  fix: "
                "for example: val_set_size: 0.05"},
        Refusal{"micro_batch_size: 0\n",
                "job.yaml:5:19: micro_batch_size must be a whole number from 1 to 1073741824, not '0'\n  fix: for "
                "example: micro_batch_size: 2"},
        Refusal{"gradient_accumulation_steps: 0\n",
                "job.yaml:5:30: gradient_accumulation_steps must be a whole number from 1 to 1073741824, not '0'\n  "
                "fix: for example: gradient_accumulation_steps: 4"},
        Refusal{"sequence_len: 1\n",
                "job.yaml:5:15: sequence_len must be a whole number from 2 to 1073741824, not '1'\n  fix: for "
                "example: sequence_len: 2048"},
        Refusal{"max_steps: 0\n",
                "job.yaml:5:12: max_steps must be a whole number from 1, not '0'\n  fix: for example: max_steps: "
                "500"},
        Refusal{"val_set_size: 0.1\nevals_per_epoch: 9223372036854775807\n",
                "job.yaml:6:18: evals_per_epoch must be a whole number from 1 to 1073741824, not "
                "'9223372036854775807'\n  fix: for example: evals_per_epoch: 1"},
        Refusal{"adapter: lora\nlora_r: 4611686018427387904\nlora_target_linear: true\n",
                "job.yaml:6:9: lora_r must be a whole number from 1 to 1048576, not '4611686018427387904'\n  fix: for "
                "example: lora_r: 16"},
        Refusal{"num_epochs: 0\n",
                "job.yaml:5:13: num_epochs must be a number above 0, not '0'\n  fix: for example: num_epochs: 3"},
        Refusal{"warmup_ratio: 1.1\n",
                "job.yaml:5:15: warmup_ratio must be a number from 0 to 1, not '1.1'\n  fix: for example: "
                "warmup_ratio: 0.03"},
        Refusal{"warmup_steps: 10.5\n",
                "job.yaml:5:15: warmup_steps must be a whole number of steps, or a share of them below 1, not "
                "'10.5'\n  fix: for example: warmup_steps: 10"},
        Refusal{"warmup_steps: 1e16\n",
                "job.yaml:5:15: warmup_steps must be a whole number of steps, or a share of them below 1, not "
                "'1e16'\n  fix: for example: warmup_steps: 10"},
        Refusal{"weight_decay: inf\n",
                "job.yaml:5:15: weight_decay must be a number from 0, not 'inf'\n  fix: for example: weight_decay: "
                "0.01"},
        Refusal{"seed: 9223372036854775808\n",
                "job.yaml:5:7: seed must be a whole number from 0, not '9223372036854775808'\n  fix: for example: "
                "seed: 42"},
        Refusal{"offload: {max_disk: 1048577TiB}\n",
                "job.yaml:5:21: offload.max_disk must be a size above 0 with its unit: KiB, MiB, GiB, TiB, KB, MB, GB "
                "or TB, not '1048577TiB'\n  fix: for example: offload.max_disk: 22GiB"},
        Refusal{"adam_beta2: 1\n",
                "job.yaml:5:13: adam_beta2 must be a number from 0 to below 1, not '1'\n  fix: for example: "
                "adam_beta2: 0.999"},
        Refusal{"adam_epsilon: 0\n",
                "job.yaml:5:15: adam_epsilon must be a number above 0, not '0'\n  fix: for example: adam_epsilon: "
                "1e-8"},
        Refusal{"seed: -1\n",
                "job.yaml:5:7: seed must be a whole number from 0, not '-1'\n  fix: for example: seed: 42"},
        Refusal{"offload: {prefetch: 0}\n",
                "job.yaml:5:21: offload.prefetch must be a whole number from 1 to 64, not '0'\n  fix: for example: "
                "offload.prefetch: 2"},
        Refusal{"offload: {max_cpu: 0GiB}\n",
                "job.yaml:5:20: offload.max_cpu must be a size above 0 with its unit: KiB, MiB, GiB, TiB, KB, MB, GB "
                "or TB, not '0GiB'\n  fix: for example: offload.max_cpu: 22GiB"},
        Refusal{"offload: {max_cpu: 0.0001KiB}\n",
                "job.yaml:5:20: offload.max_cpu must be a size above 0 with its unit: KiB, MiB, GiB, TiB, KB, MB, GB "
                "or TB, not '0.0001KiB'\n  fix: for example: offload.max_cpu: 22GiB"},
        Refusal{"adapter: lora\nlora_r: 4\nlora_target_linear: true\nlora_dropout: 1\n",
                "job.yaml:8:15: lora_dropout must be a number from 0 to below 1, not '1'\n  fix: for example: "
                "lora_dropout: 0.05"}));

INSTANTIATE_TEST_SUITE_P(
    impossible_combinations, MinimalJobWith,
    testing::Values(
        Refusal{"adapter: lora\nlora_r: 8\n",
                "job.yaml:5:1: adapter: lora has no target\n  fix: add lora_target_linear: true, or "
                "lora_target_modules: [q_proj, v_proj]"},
        Refusal{"adapter: lora\nlora_target_linear: true\n",
                "job.yaml:5:1: adapter: lora needs lora_r\n  fix: add, for example: lora_r: 16"},
        Refusal{"lora_dropout: 0.05\n",
                "job.yaml:5:1: lora_dropout is given, but not adapter: lora\n  fix: add adapter: lora, or remove "
                "lora_dropout for full fine-tuning"},
        Refusal{"evals_per_epoch: 4\n",
                "job.yaml:5:1: evals_per_epoch is given, but not val_set_size\n  fix: add, for example: val_set_size: "
                "0.05"},
        Refusal{"val_set_size: 0.1\neval_steps: 5\nevals_per_epoch: 4\n",
                "job.yaml:7:1: eval_steps and evals_per_epoch exclude one another\n  fix: keep eval_steps"},
        Refusal{"saves_per_epoch: 1\nsave_steps: 5\n",
                "job.yaml:5:1: save_steps and saves_per_epoch exclude one another\n  fix: keep save_steps"},
        Refusal{"adapter: qlora\nlora_r: 8\nlora_target_linear: true\nload_in_4bit: false\n",
                "job.yaml:8:1: adapter: qlora is LoRA over 4 bits, and load_in_4bit is false\n  fix: remove "
                "load_in_4bit, or use adapter: lora"},
        Refusal{"report_to: wandb\n",
                "job.yaml:5:1: report_to: 'wandb' is not supported\n  fix: nothing is sent anywhere: report_to: "
                "tensorboard writes event files into output_dir; trainer_log.jsonl there has all figures"},
        Refusal{"lora_r: 8\n",
                "job.yaml:5:1: lora_r is given, but not adapter: lora\n  fix: add adapter: lora, or remove lora_r for "
                "full fine-tuning"},
        Refusal{
            "use_dora: true\n",
            "job.yaml:5:1: use_dora is given, but not adapter: lora\n  fix: add adapter: lora, or remove use_dora for "
            "full fine-tuning"},
        Refusal{"bf16: true\nfp16: true\n",
                "job.yaml:6:1: fp16: true, and bf16: true at job.yaml:5:1: a job computes in one of them\n  fix: keep "
                "bf16: true, which needs no loss scale, or fp16: true alone"},
        Refusal{"fp16_init_scale: 1024\n",
                "job.yaml:5:1: fp16_init_scale is given, but not fp16: true\n  fix: add fp16: true, or remove it"},
        Refusal{"bf16: true\nfp16_growth_interval: 100\n",
                "job.yaml:6:1: fp16_growth_interval is given, but not fp16: true\n  fix: add fp16: true, or remove it"},
        Refusal{"adapter: qlora\nlora_r: 8\nlora_target_linear: true\nbf16: true\nbnb_4bit_compute_dtype: float16\n",
                "job.yaml:9:1: bnb_4bit_compute_dtype is 'float16', and the job computes in bf16\n  fix: remove it, or "
                "replace bf16: "
                "true by fp16: true"},
        Refusal{"adapter: qlora\nlora_r: 8\nlora_target_linear: true\nfp16: true\nbnb_4bit_compute_dtype: bf16\n",
                "job.yaml:9:1: bnb_4bit_compute_dtype is 'bf16', and the job computes in fp16\n  fix: remove it, or "
                "replace fp16: "
                "true by bf16: true"},
        Refusal{"warmup_ratio: 0.1\nwarmup_steps: 10\n",
                "job.yaml:5:1: warmup_steps and warmup_ratio exclude one another\n  fix: keep one of them"},
        Refusal{"load_in_4bit: true\n",
                "job.yaml:5:1: weights in 4 bits are frozen, and full fine-tuning trains all\n  fix: add adapter: "
                "qlora, or remove it"},
        Refusal{"quantization_bit: 8\n",
                "job.yaml:5:1: weights in 8 bits are frozen, and full fine-tuning trains all\n  fix: add adapter: "
                "qlora, or remove it"},
        Refusal{"adapter: qlora\nload_in_8bit: true\n",
                "job.yaml:6:1: 8 bits are asked for, and 4 as well\n  fix: use adapter: lora with load_in_8bit: true, "
                "or remove it"},
        Refusal{"adapter: lora\nload_in_8bit: true\nload_in_4bit: true\n",
                "job.yaml:6:1: 8 bits are asked for, and 4 as well\n  fix: keep one of them"},
        Refusal{"adapter: lora\nload_in_8bit: false\nload_in_4bit: true\nquantization_bit: 8\n",
                "job.yaml:8:1: 8 bits are asked for, and 4 as well\n  fix: keep one of them"},
        Refusal{"load_in_4bit: false\nquantization_bit: 4\n",
                "job.yaml:6:1: weights in 4 bits are frozen, and full fine-tuning trains all\n  fix: add adapter: "
                "qlora, or remove it"},
        Refusal{"adapter: lora\nload_in_8bit: true\nbnb_4bit_quant_type: nf4\n",
                "job.yaml:7:1: bnb_4bit_quant_type is given, but nothing asks for 4 bits\n  fix: remove it: it is "
                "about 4 bits"},
        Refusal{"adapter: qlora\nlora_r: 8\nlora_target_linear: true\nbf16: true\nbnb_4bit_compute_dtype: float32\n",
                "job.yaml:9:1: bnb_4bit_compute_dtype is 'float32', and the job computes in bf16\n  fix: remove it"},
        Refusal{"adapter: qlora\nlora_r: 8\nlora_target_linear: true\nbnb_4bit_compute_dtype: bfloat16\n",
                "job.yaml:8:1: bnb_4bit_compute_dtype is 'bfloat16', and the job computes in fp32\n  fix: add bf16: "
                "true"},
        Refusal{"adapter: lora\nlora_r: 8\nlora_model_dir: ''\nlora_target_modules: []\n",
                "job.yaml:5:1: adapter: lora has no target\n  fix: add lora_target_linear: true, or "
                "lora_target_modules: [q_proj, v_proj]"},
        Refusal{"adapter: lora\nquantization_type: nf4\n",
                "job.yaml:6:1: quantization_type is given, but nothing asks for 4 bits\n  fix: add load_in_4bit: true, "
                "or remove it"},
        Refusal{"eval_steps: 10\n",
                "job.yaml:5:1: eval_steps is given, but not val_set_size\n  fix: add, for example: val_set_size: "
                "0.05"}));

INSTANTIATE_TEST_SUITE_P(
    known_and_not_supported, MinimalJobWith,
    testing::Values(
        Refusal{"quantization_method: hqq\n",
                "job.yaml:5:1: quantization_method: 'hqq' is not supported\n  fix: remove it, or give it bnb: there is "
                "no other"},
        Refusal{"bf16: full\n",
                "job.yaml:5:1: bf16: full (no fp32 masters) is not supported\n  fix: use bf16: true, which keeps fp32 "
                "masters"},
        Refusal{
            "optim: adafactor\n",
            "job.yaml:5:1: optim: 'adafactor' is not supported\n  fix: use optim: adamw_torch, adamw_8bit, lion_32bit "
            "or lion_8bit"},
        Refusal{"optimizer: adamw_bnb_8bit\noffload: {optimizer_state: fp32}\n",
                "job.yaml:6:11: offload.optimizer_state: 'fp32' contradicts the 8-bit optimizer\n  fix: remove it, or "
                "use the optimizer without 8bit in its name"},
        Refusal{"offload: {optimizer_state: 4bit}\n",
                "job.yaml:5:28: offload.optimizer_state must be fp32, bf16 or 8bit, not '4bit'\n  fix: for example: "
                "offload.optimizer_state: fp32"},
        Refusal{"deepspeed: zero3.json\n",
                "job.yaml:5:1: deepspeed: 'zero3.json' is not supported\n  fix: remove it, and say where things live "
                "under `offload:`"},
        Refusal{"fsdp: [full_shard, auto_wrap]\n",
                "job.yaml:5:1: fsdp: a list is not supported\n  fix: remove it, and say where things live under "
                "`offload:`"},
        Refusal{"wandb_project: mine\n",
                "job.yaml:5:1: wandb_project: 'mine' is not supported\n  fix: nothing is sent anywhere: remove it, "
                "and read trainer_log.jsonl in output_dir"},
        Refusal{"stage: dpo\n",
                "job.yaml:5:1: stage: 'dpo' is not supported\n  fix: remove it: supervised fine-tuning is what there "
                "is"},
        Refusal{"saves_per_epoch: often\n",
                "job.yaml:5:18: saves_per_epoch must be a whole number from 1 to 1073741824, not 'often'\n  fix: for "
                "example: "
                "saves_per_epoch: 1"},
        Refusal{"special_tokens: <s>\n",
                "job.yaml:5:17: special_tokens must be a block of names and tokens, not '<s>'\n  fix: for example: "
                "special_tokens: {eos_token: </s>}"},
        Refusal{"save_strategy: epoch\n",
                "job.yaml:5:1: save_strategy: 'epoch' is not supported\n  fix: use save_steps; the last step is "
                "always saved"}));

TEST_F(ConfigRefusals, what_a_job_must_have_is_named_when_it_is_missing) {
  EXPECT_EQ(refusal("learning_rate: 1e-5\n"),
            "job.yaml: base_model is missing\n  fix: add, for example: base_model: models/SmolLM2-135M");
  EXPECT_EQ(refusal("base_model: model\n"),
            "job.yaml: datasets is missing\n  fix: add, for example: datasets: [{path: data.jsonl, type: alpaca}]");
  EXPECT_EQ(refusal("base_model: model\ndatasets: [{path: data.jsonl, type: alpaca}]\n"),
            "job.yaml: learning_rate is missing\n  fix: add, for example: learning_rate: 2e-5");
}

TEST_F(ConfigRefusals, a_model_that_is_not_there_says_how_to_get_one) {
  EXPECT_EQ(refusal("base_model: HuggingFaceTB/SmolLM2-135M\n"),
            "job.yaml:1:13: base_model: no folder 'HuggingFaceTB/SmolLM2-135M'\n  fix: name a local folder; one from a "
            "hub is fetched before, for example: hf download NAME --local-dir FOLDER");
}

TEST_F(ConfigRefusals, datasets) {
  const auto with = [](const std::string& datasets) {
    return refusal("base_model: model\nlearning_rate: 1e-5\n" + datasets);
  };
  EXPECT_EQ(with("datasets: []\n"),
            "job.yaml:3:11: datasets must be a list of at least one dataset, not a list\n  fix: for example: datasets: "
            "[{path: data.jsonl, type: alpaca}]");
  EXPECT_EQ(with("datasets: data.jsonl\n"),
            "job.yaml:3:11: datasets must be a list of at least one dataset, not 'data.jsonl'\n  fix: for example: "
            "datasets: [{path: data.jsonl, type: alpaca}]");
  EXPECT_EQ(with("datasets:\n  - data.jsonl\n"),
            "job.yaml:4:5: a dataset must be a block with path and type, not 'data.jsonl'\n  fix: for example: a "
            "dataset: {path: data.jsonl, type: alpaca}");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n"),
            "job.yaml:4:5: a dataset lacks type\n  fix: for example: {path: data.jsonl, type: alpaca}");
  EXPECT_EQ(with("datasets:\n  - path: gone.jsonl\n    type: alpaca\n"),
            "job.yaml:4:11: no dataset 'gone.jsonl'\n  fix: name a local file or a folder of files: JSONL, JSON, "
            "Parquet or text");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: sharegpt\n"),
            "job.yaml:5:11: datasets.type must be alpaca, chat_template or completion, not 'sharegpt'\n  fix: for "
            "example: datasets.type: alpaca");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: completion\n    field: body\n"), "accepted");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: alpaca\n    field: body\n"),
            "job.yaml:6:5: datasets.field goes with type: completion only\n  fix: remove it, or set type: completion");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: alpaca\n    roles: {assistant: [gpt]}\n"),
            "job.yaml:6:5: datasets.roles goes with type: chat_template only\n  fix: remove it, or set type: "
            "chat_template");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: alpaca\n    shards: 4\n"),
            "job.yaml:6:5: unknown key 'datasets.shards'\n  fix: remove it; a dataset has path, type, field, "
            "field_messages, message_property_mappings and roles");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: chat_template\n    field_mesages: x\n"),
            "job.yaml:6:5: unknown key 'datasets.field_mesages'\n  fix: did you mean 'field_messages'?");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: chat_template\n    train_on_eos: all\n"),
            "job.yaml:6:5: datasets.train_on_eos: 'all' is not supported\n  fix: remove it");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: chat_template\n    train_on_eos: [turn, last]\n"),
            "job.yaml:6:5: datasets.train_on_eos: a list is not supported\n  fix: remove it");
  EXPECT_EQ(with("datasets:\n  - path: data.jsonl\n    type: alpaca\n    type: alpaca\n"),
            "job.yaml:6:5: 'datasets.type' is given twice\n  fix: keep one");
  EXPECT_EQ(with("datasets:\n  - ~\n"),
            "job.yaml:4:5: a dataset must be a block with path and type, not nothing\n  fix: for example: a dataset: "
            "{path: data.jsonl, type: alpaca}");
}

TEST_F(ConfigRefusals, wrong_chat_keys_are_named_with_their_place) {
  const auto with = [](const std::string& keys) {
    return refusal(
        "base_model: model\nlearning_rate: 1e-5\ndatasets:\n  - path: data.jsonl\n    type: chat_template\n" + keys);
  };
  EXPECT_EQ(with("    field_messages: [a]\n"),
            "job.yaml:6:21: datasets.field_messages must be a text, not a list\n  fix: for example: "
            "datasets.field_messages: conversations");
  EXPECT_EQ(with("    message_property_mappings: from\n"),
            "job.yaml:6:32: datasets.message_property_mappings must be a block of properties and fields, not 'from'\n  "
            "fix: for example: datasets.message_property_mappings: {role: from, content: value}");
  EXPECT_EQ(
      with("    message_property_mappings: {role: [from]}\n"),
      "job.yaml:6:39: datasets.message_property_mappings.role must be the name of a field, not a list\n  fix: for "
      "example: datasets.message_property_mappings.role: from");
  EXPECT_EQ(with("    message_property_mappings: {role: ''}\n"),
            "job.yaml:6:39: datasets.message_property_mappings.role must be the name of a field, not ''\n  fix: for "
            "example: datasets.message_property_mappings.role: from");
  EXPECT_EQ(with("    message_property_mappings: {role: from}\n    message_field_role: who\n"),
            "job.yaml:6:33: datasets.message_property_mappings.role and datasets.message_field_role exclude one "
            "another\n  fix: keep message_property_mappings");
  EXPECT_EQ(
      with("    roles: [gpt]\n"),
      "job.yaml:6:12: datasets.roles must be a block of roles and the names that data has for them, not a list\n  "
      "fix: for example: datasets.roles: {assistant: [gpt, model], user: [human]}");
  EXPECT_EQ(
      with("    roles: {assistant: [gpt, [x]]}\n"),
      "job.yaml:6:24: datasets.roles.assistant must be a name or a list of names, not a list\n  fix: for example: "
      "datasets.roles.assistant: [gpt, model]");
  EXPECT_EQ(with("    roles: {assistant: [gpt], user: [gpt]}\n"),
            "job.yaml:6:31: datasets.roles: 'gpt' is named twice\n  fix: keep it under one role");
}

TEST_F(ConfigRefusals, all_wrong_keys_are_named_at_once_in_the_order_of_the_file) {
  EXPECT_EQ(
      refusal("base_model: model\nlearning_rat: 2e-5\nwandb_project: mine\ndatasets:\n"
              "  - {path: data.jsonl, type: alpaca, shards: 4}\nseed: 1\nseed: 2\noffload:\n  optimiser: disk\n",
              {"max_step=5", "see=1"}),
      "job.yaml:2:1: unknown key 'learning_rat'\n  fix: did you mean 'learning_rate'?\n"
      "job.yaml:3:1: wandb_project: 'mine' is not supported\n  fix: nothing is sent anywhere: remove it, and read "
      "trainer_log.jsonl in output_dir\n"
      "job.yaml:5:38: unknown key 'datasets.shards'\n  fix: remove it; a dataset has path, type, field, "
      "field_messages, message_property_mappings and roles\n"
      "job.yaml:7:1: 'seed' is given twice, first in line 6\n  fix: keep one\n"
      "job.yaml:9:3: unknown key 'offload.optimiser'\n  fix: did you mean 'optimizer'?\n"
      "command line: unknown key 'max_step'\n  fix: did you mean 'max_steps'?\n"
      "command line: unknown key 'see'\n  fix: did you mean 'seed'?");
}

TEST_F(ConfigRefusals, special_tokens_that_are_not_the_tokenizers_are_all_named) {
  write("model/tokenizer_config.json", R"({"eos_token": {"content": "</s>"}, "bos_token": "<s>"})");
  EXPECT_EQ(
      refusal(minimal("special_tokens:\n  eos_token: <|im_end|>\n  bos_token: <s>\n  unk_token: <unk>\n")),
      "job.yaml:6:14: special_tokens.eos_token is '<|im_end|>', the tokenizer's is '</s>'\n  fix: remove it, or set "
      "eos_token in tokenizer_config.json of base_model\n"
      "job.yaml:8:14: special_tokens.unk_token is '<unk>', the tokenizer has none\n  fix: remove it, or set "
      "unk_token in tokenizer_config.json of base_model");
}

TEST_F(ConfigRefusals, text_that_is_not_yaml_is_named_with_its_place) {
  EXPECT_EQ(refusal("base_model: x\n  - y: [\n"),
            "job.yaml:2:6: not YAML: illegal map value\n  fix: check indentation, colons and quotes at this place");
  EXPECT_EQ(
      refusal("seed: 'x\nbf16: true\n"),
      "job.yaml:2:11: not YAML: illegal EOF in scalar\n  fix: check indentation, colons and quotes at this place");
  EXPECT_EQ(refusal("? [a]\n: b\n"), "job.yaml:1:3: a key must be a word\n  fix: write lines of the form `key: value`");
  EXPECT_EQ(
      refusal(","),
      "job.yaml:1:1: not YAML: this belongs to nothing\n  fix: check indentation, colons and quotes at this place");
  EXPECT_TRUE(refusal("a: {b: c}\n, d").starts_with("job.yaml:2:1: not YAML: ")) << refusal("a: {b: c}\n, d");
  EXPECT_EQ(refusal(minimal(), {"output_dir=,"}),
            "command line: output_dir:1:1: not YAML: this belongs to nothing\n  fix: check indentation, colons and "
            "quotes at this place");
  EXPECT_EQ(refusal(""), "job.yaml: holds no keys\n  fix: write lines of the form `key: value`");
  EXPECT_EQ(refusal("just words\n"), "job.yaml: holds no keys\n  fix: write lines of the form `key: value`");
  EXPECT_EQ(refusal("? [a]\n"), "job.yaml:1:3: a key must be a word\n  fix: write lines of the form `key: value`");
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n---\nc: 3\n"), "job.yaml: holds more than one YAML document\n  fix: keep one");
  EXPECT_EQ(refusal("a: 1\n---\nb: 2\n"), "job.yaml: holds more than one YAML document\n  fix: keep one");
}

TEST_F(ConfigRefusals, anchors_that_multiply_are_stopped) {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 8; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before;
    for (int j = 0; j < 9; ++j) text += ", " + before;
    text += "]\n";
  }
  EXPECT_EQ(refusal(text), "job.yaml: holds too many values for a job\n  fix: write fewer");
}

TEST_F(ConfigRefusals, an_anchor_inside_itself_is_stopped) {
  EXPECT_EQ(refusal("a: &a [*a]\n"), "job.yaml: nests too deep for a job\n  fix: write fewer levels");
}

TEST_F(ConfigRefusals, anchors_that_repeat_a_long_text_are_stopped) {
  std::string text = "a: &a " + std::string(1 << 20, 'x') + "\nb: [*a";
  for (int i = 0; i < 64; ++i) text += ", *a";
  EXPECT_EQ(refusal(text + "]\n"), "job.yaml: holds too much text for a job\n  fix: write less");
}

TEST_F(ConfigRefusals, what_batches_of_a_program_leave_no_place_for) {
  const auto of_program = [](DataFrom data, const std::string& more) {
    try {
      load_config(JobText{"base_model: model\nlearning_rate: 1e-5\n" + more, "job.yaml", {}, data});
    } catch (const SetupError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  for (const DataFrom data : {DataFrom::own_rows, DataFrom::own_batches}) {
    EXPECT_EQ(of_program(data, "val_set_size: 0.1\n"),
              "job.yaml:3:1: val_set_size is about a job's own datasets, and this job's data comes from the program\n"
              "  fix: remove it");
    EXPECT_EQ(of_program(data, "val_set_size: 0\nsample_packing: false\n"), "accepted");
  }
  EXPECT_EQ(of_program(DataFrom::own_rows, "num_epochs: 2\n"), "accepted");
  EXPECT_EQ(of_program(DataFrom::own_batches, "num_train_epochs: 2\n"),
            "job.yaml:3:1: num_train_epochs is about epochs, and the program gives batches, which have none\n"
            "  fix: remove it");
}

TEST_F(ConfigRefusals, a_file_that_is_not_there_or_is_a_folder) {
  for (const char* file : {"gone.yaml", "model"}) {
    try {
      load_config(file);
      FAIL() << file << " was accepted";
    } catch (const SetupError& error) {
      EXPECT_EQ(std::string(error.what()),
                std::string(file) + ": cannot be read\n  fix: give the path of a job's YAML file");
    }
  }
}

TEST_F(ConfigRefusals, the_command_line) {
  EXPECT_EQ(refusal(minimal(), {"max_steps"}),
            "command line: 'max_steps' is not of the form key=value\n  fix: for example: learning_rate=2e-5");
  EXPECT_EQ(refusal(minimal(), {"max_step=5"}),
            "command line: unknown key 'max_step'\n  fix: did you mean 'max_steps'?");
  EXPECT_EQ(refusal(minimal(), {"max_steps=five"}),
            "command line: max_steps must be a whole number from 1, not 'five'\n  fix: for example: max_steps: 500");
  EXPECT_EQ(refusal(minimal(), {"offload.max_cpus=1GiB"}),
            "command line: unknown key 'offload.max_cpus'\n  fix: did you mean 'max_cpu'?");
  EXPECT_EQ(refusal(minimal(), {"max_steps=1", "max_steps=2"}),
            "command line: 'max_steps' is given twice\n  fix: keep one");
  EXPECT_EQ(refusal(minimal(), {"micro_batch_size=1", "per_device_train_batch_size=2"}),
            "command line: 'per_device_train_batch_size' and 'micro_batch_size' are one key under two names\n  fix: "
            "keep one");
  EXPECT_EQ(refusal(minimal(), {"datasets=[{path: ["}),
            "command line: datasets:1:1: not YAML: end of sequence flow not found\n  fix: check indentation, colons "
            "and quotes at this place");
}

}  // namespace
}  // namespace sluice::train
