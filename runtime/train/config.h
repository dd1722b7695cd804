// One job, as the user's YAML says it: typed, checked, defaults filled in. The keys are a contract (design.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/low_bit.h"
#include "runtime/core/dtype.h"
#include "runtime/core/state_layout.h"
#include "runtime/core/units.h"

namespace sluice::train {

enum class Adapter { none, lora };
// `instruction`: LLaMA-Factory's alpaca rows, rendered by the chat template.
enum class DatasetType { alpaca, chat_template, completion, instruction };
enum class LearningRateSchedule { constant, linear, cosine };
enum class Residence { automatic, device, host, disk };
enum class ActivationFate { automatic, keep, host, disk, recompute };
enum class UpdateChoice { automatic, before_forward, behind_backward };
// Where the bytes of a checkpoint of what lives on disk are: in a set that training leaves alone, or in the one that it
// overwrites, which halves the space and leaves no checkpoint while a step runs.
enum class CheckpointPlace { two_sets, in_place };
enum class DeviceKind { automatic, cpu, cuda, emulated };

struct DatasetConfig {
  std::string path;  // file, or folder of files
  DatasetType type = DatasetType::alpaca;
  std::string field;  // of completion: what holds the text; empty: "text"
  // Of chat_template, with Axolotl's meaning:
  std::string field_messages;                             // empty: "messages" or "conversations", as a row has it
  std::map<std::string, std::string> message_properties;  // a message's property -> the field of a turn that holds it
  std::map<std::string, std::vector<std::string>> roles;  // a template's role -> data's names; empty: the well-known
  std::map<std::string, std::string> columns;             // of instruction: LLaMA-Factory's name -> the field of a row
  int64_t rows_max = 0;                                   // the first ones; 0: all
};

struct OffloadConfig {
  Residence params = Residence::automatic;
  Residence gradients = Residence::automatic;
  Residence optimizer = Residence::automatic;
  ActivationFate activations = ActivationFate::automatic;
  UpdateChoice update = UpdateChoice::automatic;  // when: plan::UpdateTime
  MomentFormat optimizer_state = MomentFormat::f32;
  std::vector<std::filesystem::path> nvme_path;  // default: {output_dir}
  std::optional<Bytes> max_gpu, max_cpu, max_disk;
  std::chrono::seconds enospc_timeout = std::chrono::hours(24);  // how long a full drive is waited for
  std::optional<int> prefetch;                                   // blocks fetched ahead; default: the plan's choice
  std::string io_backend = "auto";                               // auto | uring | thread
  std::filesystem::path emulate;  // machine file whose link the emulated device copies over; empty: 20 GB/s
};

struct Config {
  std::filesystem::path file;  // the YAML itself, for messages

  std::filesystem::path base_model;
  Adapter adapter = Adapter::none;
  // Not given with lora_model_dir, 0 and nothing mean: as the adapter there has it.
  int64_t lora_r = 0;
  std::optional<bool> peft_use_rslora, peft_use_dora;
  double lora_alpha = 0;
  std::optional<double> lora_dropout;            // default 0
  std::optional<models::LowBitFormat> low_bits;  // of the frozen base's matrices; none: as they are stored
  std::vector<std::string> lora_target_modules;
  bool lora_target_linear = false;
  std::filesystem::path lora_model_dir;

  std::vector<DatasetConfig> datasets;
  std::filesystem::path dataset_prepared_path;  // default: ${XDG_CACHE_HOME:-$HOME/.cache}/sluice/datasets
  double val_set_size = 0;                      // < 1: share, >= 1: rows
  int64_t sequence_len = 2048;
  bool sample_packing = false;
  bool train_on_inputs = false;
  bool shuffle_merged_datasets = true;
  bool sequential_order = false;  // `curriculum_sampling: true` (Axolotl), `disable_shuffling` (LLaMA-Factory)

  int64_t micro_batch_size = 1;
  int64_t gradient_accumulation_steps = 1;
  std::optional<double> num_epochs;  // default 1 when max_steps is not given
  std::optional<int64_t> max_steps;
  double learning_rate = 0;
  LearningRateSchedule lr_scheduler = LearningRateSchedule::cosine;
  int64_t warmup_steps = 0;
  double warmup_ratio = 0;
  UpdateRule update_rule = UpdateRule::adamw;  // the key `optimizer`, with offload.optimizer_state
  double weight_decay = 0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;        // 0: no clipping
  Dtype compute_dtype = Dtype::f32;  // bf16: true -> bf16, fp16: true -> f16
  // Of fp16's loss scale (loss_scale.h): where it begins, and after how many steps without overflow it doubles.
  double fp16_init_scale = 65536;
  int64_t fp16_growth_interval = 2000;
  uint64_t seed = 42;

  std::filesystem::path output_dir;
  int64_t save_steps = 0;        // 0: only at the end
  int64_t save_total_limit = 0;  // 0: keep all; of those whose bytes stay in swap files, the last
  bool save_only_model = false;  // checkpoints are models, and cannot be resumed
  CheckpointPlace checkpoint = CheckpointPlace::two_sets;
  int64_t eval_steps = 0;  // 0: before the first and after the last step only
  // Axolotl's; 0: not given. Where it is, it sets the above once the rows are counted (BatchPlan::every).
  int64_t evals_per_epoch = 0, saves_per_epoch = 0;
  std::filesystem::path resume_from_checkpoint;
  bool auto_resume_from_checkpoints = false;
  int64_t logging_steps = 1;
  bool tensorboard = false;  // `report_to: tensorboard`, or Axolotl's use_tensorboard: event files in output_dir/runs

  // auto: the GPU where there is one, else the CPU.
  bool deterministic = true;                  // on a GPU attention's backward may be faster where it need not be
  DeviceKind device = DeviceKind::automatic;  // key `device: auto | cpu | cuda | emulated`
  OffloadConfig offload;

  // What checkpoints remember a loss by that the embedding program brings (Job::loss). Empty: cross-entropy.
  std::string own_loss;

  // What the user should know but need not change: keys of other trainers that have no influence here.
  std::vector<std::string> notes;
};

// Throws SetupError: "job.yaml:12:3: unknown key 'learning_rat'\n  fix: did you mean 'learning_rate'?".
// `overrides` are "key=value" (nested: "offload.max_cpu=4GiB") from the command line, parsed as YAML.
Config load_config(const std::filesystem::path& yaml, const std::vector<std::string>& overrides = {});

// What is trained on: the job's `datasets`; or rows, or whole batches, of the program that embeds the runtime
// (own_data.h). Then keys that are about the job's datasets are refused, and of batches, which have no epochs, those
// too.
enum class DataFrom { datasets, own_rows, own_batches };

// The same of a text. `origin` stands for the file in messages.
struct JobText {
  std::string yaml, origin;
  std::vector<std::string> overrides;
  DataFrom data = DataFrom::datasets;
};
Config load_config(const JobText& job);

// Every key with its other spellings, a line each: for --help.
std::string describe_keys();

}  // namespace sluice::train
