#include "runtime/train/config.h"

#include <cmath>
#include <cstdlib>
#include <map>

#include "runtime/core/result.h"
#include "runtime/train/config_datasets.h"
#include "runtime/train/config_keys.h"
#include "runtime/train/config_source.h"
#include "runtime/train/config_values.h"
#include "runtime/train/special_tokens.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSomeTargets = "[q_proj, v_proj]";

class ConfigReader {
 public:
  ConfigReader(const fs::path& file, Settings settings, DataFrom data) : settings_(std::move(settings)), data_(data) {
    config_.file = file;
    config_.notes = settings_.notes;
  }

  Config read() {
    check_dataset_keys(settings_);
    settings_.problems.throw_if_any();
    read_model();
    if (const Setting* tokens = find("special_tokens"))
      check_special_tokens(*tokens, config_.base_model, config_.notes);
    read_adapter();
    read_data();
    read_batches();
    read_schedule();
    read_optimizer();
    read_precision();
    read_output();
    read_offload();
    return std::move(config_);
  }

 private:
  const Setting* find(std::string_view key) const { return settings_.find(key); }
  const Setting& require(std::string_view key, const std::string& example) const {
    return required(settings_, config_.file, key, example);
  }
  void read_if(std::string_view key, bool& value) const {
    if (const Setting* setting = find(key)) value = read_bool(*setting);
  }
  void read_if(std::string_view key, int64_t& value, IntegerRange range, std::string_view example) const {
    if (const Setting* setting = find(key)) value = read_integer(*setting, range, example);
  }
  void read_if(std::string_view key, double& value, NumberRange range, std::string_view example) const {
    if (const Setting* setting = find(key)) value = read_number(*setting, range, example);
  }
  template <class Value, size_t count>
  void read_if(std::string_view key, Value& value, const std::array<Choice<Value>, count>& choices) const {
    if (const Setting* setting = find(key)) value = read_choice(*setting, choices);
  }
  void refuse_both(std::string_view one, std::string_view other, const std::string& fix) const {
    refuse_both_of(*find(one), *find(other), fix);
  }

  // A folder that must be there already. Hub names look like folders: the fix says how to get one.
  fs::path read_folder(const Setting& setting, std::string_view example) const {
    fs::path folder = read_path(setting, example);
    if (!fs::is_directory(folder))
      throw SetupError(
          setting.place_of(setting.value.position) + ": " + setting.spelling + ": no folder '" + folder.string() + "'",
          "name a local folder; one from a hub is fetched before, "
          "for example: hf download NAME --local-dir FOLDER");
    return folder;
  }

  void read_model() {
    config_.base_model = read_folder(require("base_model", "models/SmolLM2-135M"), "models/SmolLM2-135M");
  }

  void read_adapter() {
    enum class Asked { none, lora, qlora };
    static constexpr std::array<Choice<Asked>, 4> choices = {
        {{"lora", Asked::lora}, {"full", Asked::none}, {"none", Asked::none}, {"qlora", Asked::qlora}}};
    Asked asked = Asked::none;
    const Setting* adapter = find("adapter");
    if (adapter != nullptr && !is_unset(adapter->value)) asked = read_choice(*adapter, choices);
    config_.adapter = asked == Asked::none ? Adapter::none : Adapter::lora;
    read_low_bits(asked == Asked::qlora ? adapter : nullptr);
    if (config_.adapter == Adapter::lora) return read_lora(*adapter);
    for (const char* key : {"lora_r", "lora_alpha", "peft_use_rslora", "peft_use_dora", "lora_dropout",
                            "lora_target_modules", "lora_target_linear", "lora_model_dir"})
      if (const Setting* setting = find(key); setting != nullptr && !is_unset(setting->value))
        refuse(*setting, setting->spelling + " is given, but not adapter: lora",
               "add adapter: lora, or remove " + setting->spelling + " for full fine-tuning");
  }

  // transformers' BitsAndBytesConfig by its keys, and LLaMA-Factory's quantization_bit. `qlora`: the adapter's setting
  // where it says so, which stands for 4 bits.
  void read_low_bits(const Setting* qlora) {
    const int bits = read_bits(qlora);
    if (bits == 0) return refuse_bnb_keys("", "add load_in_4bit: true, or remove it");
    if (config_.adapter == Adapter::none)
      refuse(*bits_setting(bits),
             "weights in " + std::to_string(bits) + " bits are frozen, and full fine-tuning trains all",
             "add adapter: qlora, or remove it");
    models::LowBitFormat format;
    if (bits == 8) {
      format = {models::LowBit::int8, false};
      refuse_bnb_keys("bnb_4bit_compute_dtype", "remove it: it is about 4 bits");
    } else {
      static constexpr std::array<Choice<models::LowBit>, 2> kinds = {
          {{"nf4", models::LowBit::nf4}, {"fp4", models::LowBit::fp4}}};
      read_if("bnb_4bit_quant_type", format.kind, kinds);
      read_if("bnb_4bit_use_double_quant", format.double_quant);
    }
    config_.low_bits = format;
  }
  int read_bits(const Setting* qlora) const {
    bool four = qlora != nullptr, eight = false;
    read_if("load_in_4bit", four);
    read_if("load_in_8bit", eight);
    if (const Setting* bits = find("quantization_bit"); bits != nullptr && !is_unset(bits->value)) {
      static constexpr std::array<Choice<int>, 2> choices = {{{"4", 4}, {"8", 8}}};
      (read_choice(*bits, choices) == 4 ? four : eight) = true;
    }
    if (qlora != nullptr && !four)
      refuse(*find("load_in_4bit"), "adapter: qlora is LoRA over 4 bits, and load_in_4bit is false",
             "remove load_in_4bit, or use adapter: lora");
    if (four && eight)
      refuse(*bits_setting(8), "8 bits are asked for, and 4 as well",
             qlora != nullptr ? "use adapter: lora with load_in_8bit: true, or remove it" : "keep one of them");
    return four ? 4 : eight ? 8 : 0;
  }
  // What asks for that many bits, beside `adapter: qlora`.
  const Setting* bits_setting(int bits) const {
    const Setting* direct = find(bits == 4 ? "load_in_4bit" : "load_in_8bit");
    return direct != nullptr && as_bool(direct->value.text) == true ? direct : find("quantization_bit");
  }
  void refuse_bnb_keys(std::string_view beside, const std::string& fix) const {
    for (const char* key : {"bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype"})
      if (const Setting* setting = find(key); key != beside && setting != nullptr && !is_unset(setting->value))
        refuse(*setting, setting->spelling + " is given, but nothing asks for 4 bits", fix);
  }
  // Products are computed in one type, which bf16 and fp16 say.
  void check_bnb_compute_dtype() const {
    const Setting* setting = find("bnb_4bit_compute_dtype");
    if (setting == nullptr || is_unset(setting->value)) return;
    static constexpr std::array<Choice<Dtype>, 9> types = {{{"bfloat16", Dtype::bf16},
                                                            {"torch.bfloat16", Dtype::bf16},
                                                            {"bf16", Dtype::bf16},
                                                            {"float32", Dtype::f32},
                                                            {"torch.float32", Dtype::f32},
                                                            {"fp32", Dtype::f32},
                                                            {"float16", Dtype::f16},
                                                            {"torch.float16", Dtype::f16},
                                                            {"fp16", Dtype::f16}}};
    const Dtype asked = read_choice(*setting, types);
    if (asked == config_.compute_dtype) return;
    const auto key_of = [](Dtype dtype) {
      return std::string(dtype == Dtype::bf16 ? "bf16" : dtype == Dtype::f16 ? "fp16" : "fp32");
    };
    refuse(*setting,
           setting->spelling + " is " + shown(setting->value) + ", and the job computes in " +
               key_of(config_.compute_dtype),
           asked == Dtype::f32 ? "remove it"
           : config_.compute_dtype == Dtype::f32
               ? "add " + key_of(asked) + ": true"
               : "remove it, or replace " + key_of(config_.compute_dtype) + ": true by " + key_of(asked) + ": true");
  }

  void read_lora(const Setting& adapter) {
    if (const Setting* folder = find("lora_model_dir"); folder != nullptr && !is_unset(folder->value))
      config_.lora_model_dir = read_folder(*folder, "outputs/adapter");
    read_if("lora_target_linear", config_.lora_target_linear);
    if (const Setting* targets = find("lora_target_modules"); targets != nullptr && !is_unset(targets->value))
      config_.lora_target_modules = read_texts(*targets, kSomeTargets);
    // LLaMA-Factory's and peft's words for every linear layer.
    for (const char* word : {"all", "all-linear"})
      if (std::erase(config_.lora_target_modules, word) > 0) config_.lora_target_linear = true;
    read_if("lora_r", config_.lora_r, {.min = 1, .max = int64_t{1} << 20}, "16");
    if (const Setting* dropout = find("lora_dropout"))
      config_.lora_dropout = read_number(*dropout, {.max = 1, .ends = NumberRange::Ends::below_max}, "0.05");
    for (const auto& [key, value] :
         {std::pair("peft_use_rslora", &config_.peft_use_rslora), std::pair("peft_use_dora", &config_.peft_use_dora)})
      if (const Setting* setting = find(key)) *value = read_bool(*setting);
    if (config_.lora_model_dir.empty()) config_.lora_alpha = 2 * static_cast<double>(config_.lora_r);
    read_if("lora_alpha", config_.lora_alpha, {.ends = NumberRange::Ends::above_min}, "32");
    if (!config_.lora_model_dir.empty()) return;
    if (config_.lora_target_modules.empty() && !config_.lora_target_linear)
      refuse(adapter, "adapter: lora has no target",
             "add lora_target_linear: true, or lora_target_modules: " + std::string(kSomeTargets));
    if (config_.lora_r == 0) refuse(adapter, "adapter: lora needs lora_r", "add, for example: lora_r: 16");
    if (find("lora_alpha") == nullptr)
      config_.notes.push_back(adapter.place() + ": lora_alpha is not given: twice lora_r is taken");
  }

  void read_data() {
    read_if("sequence_len", config_.sequence_len, {.min = 2, .max = int64_t{1} << 30}, "2048");
    if (data_ != DataFrom::datasets) return refuse_dataset_keys();
    config_.datasets = read_datasets(settings_, config_.file, config_.notes);

    if (const Setting* folder = find("dataset_prepared_path"); folder != nullptr && !is_unset(folder->value))
      config_.dataset_prepared_path = read_path(*folder, "prepared");
    else
      config_.dataset_prepared_path = default_prepared_path();
    read_if("val_set_size", config_.val_set_size, {}, "0.05");
    if (config_.val_set_size >= 1 && config_.val_set_size != std::floor(config_.val_set_size))
      refuse_value(*find("val_set_size"), "a share below 1 or a whole number of rows", "0.05");
    bool neat = false;
    read_if("sample_packing", config_.sample_packing);
    read_if("neat_packing", neat);
    config_.sample_packing |= neat;
    read_if("train_on_inputs", config_.train_on_inputs);
    read_if("shuffle_merged_datasets", config_.shuffle_merged_datasets);
    read_if("curriculum_sampling", config_.sequential_order);
  }

  void refuse_dataset_keys() {
    read_if("curriculum_sampling", config_.sequential_order);
    const auto refuse_if_given = [&](const char* key, const char* what) {
      if (const Setting* setting = find(key); setting != nullptr && !is_unset(setting->value))
        refuse(*setting, setting->spelling + what, "remove it");
    };
    for (const char* key : {"datasets", "dataset", "dataset_dir", "max_samples", "dataset_prepared_path",
                            "val_set_size", "sample_packing", "neat_packing", "train_on_inputs",
                            "shuffle_merged_datasets", "eval_steps", "evals_per_epoch"})
      refuse_if_given(key, " is about a job's own datasets, and this job's data comes from the program");
    if (data_ == DataFrom::own_rows) return;
    for (const char* key : {"num_epochs", "saves_per_epoch", "curriculum_sampling"})
      refuse_if_given(key, " is about epochs, and the program gives batches, which have none");
  }

  fs::path default_prepared_path() const {
    const auto set = [](const char* name) {
      const char* value = std::getenv(name);
      return fs::path(value == nullptr ? "" : value);
    };
    fs::path cache = set("XDG_CACHE_HOME");
    if (cache.empty() && !set("HOME").empty()) cache = set("HOME") / ".cache";
    if (cache.empty())
      throw SetupError(config_.file.string() + ": neither HOME nor XDG_CACHE_HOME says where prepared data may lie",
                       "add dataset_prepared_path: FOLDER");
    return cache / "sluice" / "datasets";
  }

  void read_batches() {
    read_if("micro_batch_size", config_.micro_batch_size, {.min = 1, .max = int64_t{1} << 30}, "2");
    read_if("gradient_accumulation_steps", config_.gradient_accumulation_steps, {.min = 1, .max = int64_t{1} << 30},
            "4");
    if (const Setting* epochs = find("num_epochs"))
      config_.num_epochs = read_number(*epochs, {.ends = NumberRange::Ends::above_min}, "3");
    // Hugging Face's -1 means that the epochs decide.
    if (const Setting* steps = find("max_steps"); steps != nullptr && !is_minus_one(*steps))
      config_.max_steps = read_integer(*steps, {.min = 1}, "500");
    if (!config_.num_epochs && !config_.max_steps) config_.num_epochs = 1;
  }
  static bool is_minus_one(const Setting& setting) { return setting.value.is_text() && setting.value.text == "-1"; }

  void read_schedule() {
    using enum LearningRateSchedule;
    static constexpr std::array<Choice<LearningRateSchedule>, 4> schedules = {
        {{"constant", constant}, {"linear", linear}, {"cosine", cosine}, {"constant_with_warmup", constant}}};
    config_.learning_rate =
        read_number(require("learning_rate", "2e-5"), {.ends = NumberRange::Ends::above_min}, "2e-5");
    read_if("lr_scheduler", config_.lr_scheduler, schedules);
    read_warmup();
  }

  // As in transformers 5, warmup_steps below 1 is a share of the steps.
  void read_warmup() {
    double steps = 0;
    read_if("warmup_steps", steps, {}, "10");
    read_if("warmup_ratio", config_.warmup_ratio, {.max = 1}, "0.03");
    if (steps > 0 && config_.warmup_ratio > 0) refuse_both("warmup_steps", "warmup_ratio", "keep one of them");
    if (steps > 0 && steps < 1) {
      config_.warmup_ratio = steps;
      return;
    }
    if (steps != std::floor(steps) || steps > 1e15)
      refuse_value(*find("warmup_steps"), "a whole number of steps, or a share of them below 1", "10");
    config_.warmup_steps = static_cast<int64_t>(steps);
  }

  void read_optimizer() {
    if (const Setting* optimizer = find("optimizer")) read_optimizer_name(*optimizer);
    read_if("weight_decay", config_.weight_decay, {}, "0.01");
    const NumberRange beta{.max = 1, .ends = NumberRange::Ends::below_max};
    read_if("adam_beta1", config_.adam_beta1, beta, "0.9");
    read_if("adam_beta2", config_.adam_beta2, beta, "0.999");
    read_if("adam_epsilon", config_.adam_epsilon, {.ends = NumberRange::Ends::above_min}, "1e-8");
    read_if("max_grad_norm", config_.max_grad_norm, {}, "1.0");
    int64_t seed = static_cast<int64_t>(config_.seed);
    read_if("seed", seed, {.min = 0}, "42");
    config_.seed = static_cast<uint64_t>(seed);
  }

  // Where states live is the plan's matter, and 8-bit ones are a format of theirs.
  void read_optimizer_name(const Setting& setting) {
    struct Meaning {
      UpdateRule rule;
      MomentFormat states;
    };
    static constexpr Meaning adamw{UpdateRule::adamw, MomentFormat::f32}, adamw_8bit{adamw.rule, MomentFormat::int8};
    static constexpr Meaning lion{UpdateRule::lion, MomentFormat::f32}, lion_8bit{lion.rule, MomentFormat::int8};
    static const std::map<std::string, Meaning> meanings = {
        {"adamw_torch", adamw},         {"adamw_torch_fused", adamw},     {"adamw", adamw},
        {"paged_adamw", adamw},         {"paged_adamw_32bit", adamw},     {"adamw_8bit", adamw_8bit},
        {"adamw_bnb_8bit", adamw_8bit}, {"paged_adamw_8bit", adamw_8bit}, {"lion_32bit", lion},
        {"lion_pytorch", lion},         {"paged_lion_32bit", lion},       {"lion_8bit", lion_8bit},
        {"paged_lion_8bit", lion_8bit}};
    const std::string name = read_text(setting, "adamw_torch");
    const auto meaning = meanings.find(name);
    if (meaning == meanings.end())
      refuse(setting, setting.spelling + ": '" + name + "' is not supported",
             "use " + setting.spelling + ": adamw_torch, adamw_8bit, lion_32bit or lion_8bit");
    if (name.starts_with("paged_"))
      config_.notes.push_back(
          setting.place() + ": " + setting.spelling + ": " + name +
          " is paged as any optimizer is here: its states leave memory when the plan needs the room");
    config_.update_rule = meaning->second.rule;
    config_.offload.optimizer_state = meaning->second.states;
  }

  void read_precision() {
    bool fp16 = false;
    read_if("fp16", fp16);
    const Setting* bf16 = find("bf16");
    bool brain = false;
    if (bf16 != nullptr) {
      const std::string value = bf16->value.is_text() ? bf16->value.text : "";
      if (value == "full")
        refuse(*bf16, "bf16: full (no fp32 masters) is not supported", "use bf16: true, which keeps fp32 masters");
      // Every device here computes in bf16. Asking for fp16 beside it leaves `auto` out, as in Axolotl.
      brain = value == "auto" ? !fp16 : read_bool(*bf16);
    }
    if (brain && fp16)
      refuse(*find("fp16"), "fp16: true, and bf16: true at " + bf16->place() + ": a job computes in one of them",
             "keep bf16: true, which needs no loss scale, or fp16: true alone");
    config_.compute_dtype = brain ? Dtype::bf16 : fp16 ? Dtype::f16 : Dtype::f32;
    read_loss_scale();
    check_bnb_compute_dtype();
  }

  void read_loss_scale() {
    for (const char* key : {"fp16_init_scale", "fp16_growth_interval"})
      if (const Setting* setting = find(key); setting != nullptr && config_.compute_dtype != Dtype::f16)
        refuse(*setting, setting->spelling + " is given, but not fp16: true", "add fp16: true, or remove it");
    read_if("fp16_init_scale", config_.fp16_init_scale, {.min = 1, .max = 0x1p126}, "65536");
    read_if("fp16_growth_interval", config_.fp16_growth_interval, {.min = 1}, "2000");
  }

  void read_output() {
    config_.output_dir = "model-out";
    if (const Setting* folder = find("output_dir")) config_.output_dir = read_path(*folder, "outputs/my-model");
    read_if("save_steps", config_.save_steps, {.min = 0}, "100");
    if (const Setting* limit = find("save_total_limit"); limit != nullptr && !is_unset(limit->value))
      config_.save_total_limit = read_integer(*limit, {.min = 1}, "2");
    read_if("save_only_model", config_.save_only_model);
    static constexpr std::array<Choice<CheckpointPlace>, 2> places = {
        {{"two_sets", CheckpointPlace::two_sets}, {"in_place", CheckpointPlace::in_place}}};
    if (const Setting* place = find("checkpoint")) config_.checkpoint = read_choice<CheckpointPlace>(*place, places);
    refuse_limits_in_place();
    read_if("eval_steps", config_.eval_steps, {.min = 0}, "50");
    if (config_.eval_steps > 0 && config_.val_set_size == 0)
      refuse(*find("eval_steps"), "eval_steps is given, but not val_set_size", "add, for example: val_set_size: 0.05");
    read_times_per_epoch("eval_steps", "evals_per_epoch", config_.evals_per_epoch);
    read_times_per_epoch("save_steps", "saves_per_epoch", config_.saves_per_epoch);
    read_if("logging_steps", config_.logging_steps, {.min = 1}, "1");
    read_if("auto_resume_from_checkpoints", config_.auto_resume_from_checkpoints);
    read_report_to();
    read_resume();
  }

  void read_report_to() {
    read_if("use_tensorboard", config_.tensorboard);
    const Setting* setting = find("report_to");
    if (setting == nullptr || is_unset(setting->value)) return;
    for (const std::string& tracker : read_texts(*setting, "tensorboard")) {
      if (tracker == "tensorboard")
        config_.tensorboard = true;
      else if (tracker != "none")
        refuse(*setting, "report_to: '" + tracker + "' is not supported",
               "nothing is sent anywhere: report_to: tensorboard writes event files into output_dir; "
               "trainer_log.jsonl there has all figures");
    }
  }

  void refuse_limits_in_place() const {
    const Setting* limit = find("save_total_limit");
    if (config_.checkpoint == CheckpointPlace::in_place && config_.save_total_limit > 1)
      refuse(*limit, "save_total_limit is more than 1, and checkpoint: in_place has room for one",
             "remove it, or keep checkpoint: two_sets");
  }

  void read_times_per_epoch(const std::string& ours, const std::string& theirs, int64_t& times) const {
    const Setting* setting = find(theirs);
    if (setting == nullptr) return;
    times = read_integer(*setting, {.min = 1, .max = int64_t{1} << 30}, "1");
    if (find(ours) != nullptr) refuse_both(ours, theirs, "keep " + ours);
    if (ours == "eval_steps" && config_.val_set_size == 0)
      refuse(*setting, theirs + " is given, but not val_set_size", "add, for example: val_set_size: 0.05");
  }

  // A folder, or Hugging Face's true: the newest checkpoint.
  void read_resume() {
    const Setting* resume = find("resume_from_checkpoint");
    if (resume == nullptr || is_unset(resume->value)) return;
    if (as_bool(resume->value.text))
      config_.auto_resume_from_checkpoints = true;
    else
      config_.resume_from_checkpoint = read_folder(*resume, "outputs/my-model/checkpoint-100");
  }

  void read_offload() {
    static constexpr std::array<Choice<DeviceKind>, 4> devices = {{{"auto", DeviceKind::automatic},
                                                                   {"cpu", DeviceKind::cpu},
                                                                   {"cuda", DeviceKind::cuda},
                                                                   {"emulated", DeviceKind::emulated}}};
    static constexpr std::array<Choice<Residence>, 4> residences = {{{"auto", Residence::automatic},
                                                                     {"device", Residence::device},
                                                                     {"host", Residence::host},
                                                                     {"disk", Residence::disk}}};
    static constexpr std::array<Choice<ActivationFate>, 5> fates = {{{"auto", ActivationFate::automatic},
                                                                     {"keep", ActivationFate::keep},
                                                                     {"host", ActivationFate::host},
                                                                     {"disk", ActivationFate::disk},
                                                                     {"recompute", ActivationFate::recompute}}};
    static constexpr std::array<Choice<UpdateChoice>, 3> updates = {
        {{"auto", UpdateChoice::automatic},
         {"before_forward", UpdateChoice::before_forward},
         {"behind_backward", UpdateChoice::behind_backward}}};
    read_if("device", config_.device, devices);
    read_if("deterministic", config_.deterministic);
    OffloadConfig& offload = config_.offload;
    read_if("offload.params", offload.params, residences);
    read_if("offload.gradients", offload.gradients, residences);
    read_if("offload.optimizer", offload.optimizer, residences);
    read_if("offload.activations", offload.activations, fates);
    read_if("offload.update", offload.update, updates);
    refuse_apart_from_states();
    read_optimizer_state();
    for (const auto& [key, size] :
         {std::pair("offload.max_gpu", &offload.max_gpu), std::pair("offload.max_cpu", &offload.max_cpu),
          std::pair("offload.max_disk", &offload.max_disk)})
      if (const Setting* setting = find(key)) *size = read_size(*setting);
    if (const Setting* timeout = find("offload.enospc_timeout")) offload.enospc_timeout = read_duration(*timeout);
    if (const Setting* prefetch = find("offload.prefetch"))
      offload.prefetch = static_cast<int>(read_integer(*prefetch, {.min = 1, .max = 64}, "2"));
    if (const Setting* backend = find("offload.io_backend")) {
      static constexpr std::array<Choice<std::string_view>, 3> backends = {
          {{"auto", "auto"}, {"uring", "uring"}, {"thread", "thread"}}};
      offload.io_backend = read_choice(*backend, backends);
    }
    if (const Setting* machine = find("offload.emulate"))
      offload.emulate = read_path(*machine, "configs/machine/rtx4090_desktop.yaml");
    if (const Setting* paths = find("offload.nvme_path"))
      offload.nvme_path = read_paths(*paths, "[/mnt/nvme0, /mnt/nvme1]");
    else
      offload.nvme_path = {config_.output_dir};
  }

  // What is updated on the device has its weights and gradients there.
  void refuse_apart_from_states() const {
    const OffloadConfig& offload = config_.offload;
    if (offload.optimizer != Residence::device) return;
    const auto refuse_elsewhere = [&](const char* key, Residence residence) {
      if (residence == Residence::automatic || residence == Residence::device) return;
      refuse(*find(key),
             std::string(key) + " is elsewhere, and offload.optimizer: device updates in the device's memory alone",
             std::string("remove ") + key + ", or use offload.optimizer: auto");
    };
    refuse_elsewhere("offload.params", offload.params);
    refuse_elsewhere("offload.gradients", offload.gradients);
  }

  void read_optimizer_state() {
    const Setting* state = find("offload.optimizer_state");
    if (state == nullptr) return;
    static constexpr std::array<Choice<MomentFormat>, 3> formats = {
        {{"fp32", MomentFormat::f32}, {"bf16", MomentFormat::bf16}, {"8bit", MomentFormat::int8}}};
    const MomentFormat format = read_choice(*state, formats);
    if (config_.offload.optimizer_state == MomentFormat::int8 && format != MomentFormat::int8)
      refuse(*state, "offload.optimizer_state: " + shown(state->value) + " contradicts the 8-bit optimizer",
             "remove it, or use the optimizer without 8bit in its name");
    config_.offload.optimizer_state = format;
  }

  Settings settings_;
  DataFrom data_;
  Config config_;
};

}  // namespace

Config load_config(const fs::path& yaml, const std::vector<std::string>& overrides) {
  return load_config(JobText{read_job_file(yaml), yaml.string(), overrides});
}

Config load_config(const JobText& job) {
  return ConfigReader(job.origin, read_settings(job.yaml, job.origin, job.overrides), job.data).read();
}

}  // namespace sluice::train
