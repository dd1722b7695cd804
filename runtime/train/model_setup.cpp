#include "runtime/train/model_setup.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>

#include "models/adapter_files.h"
#include "models/decoder_groups.h"
#include "models/ops/ops.h"
#include "runtime/core/result.h"
#include "runtime/exec/rate_probe.h"
#include "runtime/train/free_memory.h"
#include "runtime/train/initial_adapter.h"

namespace sluice::train {
namespace {

// What comes after measuring: the lanes' threads with their stacks and MKL's buffers, rings and schedules. 8 MiB in a
// job of 31 blocks on two cores.
constexpr Bytes kThreads = MiB(12);

// What recomputing all slots adds to backward. On a busy machine the difference of two measured times may come out as
// nothing, and everything would be recomputed: what the same FLOPs take in forward is within a factor of two of it.
Microseconds recomputing_time(const plan::BlockShape& block, const exec::BlockPass& pass, double flops) {
  const double in_forward =
      block.forward_flops > 0 ? pass.forward.count * std::min(1.0, flops / block.forward_flops) : 0;
  return {std::clamp(pass.backward_recomputing.count - pass.backward.count, in_forward / 2, in_forward * 2)};
}

// Where recomputation was measured for all slots together, each takes its share by FLOPs.
void set_times(plan::BlockShape& block, const exec::BlockPass& pass) {
  block.forward_time = pass.forward;
  block.backward_time = pass.backward;
  if (!pass.slot_recomputing.empty()) {
    for (size_t s = 0; s < block.slots.size(); ++s) block.slots[s].recompute_time = pass.slot_recomputing[s];
    return;
  }
  double flops = 0;
  for (const plan::SlotShape& slot : block.slots) flops += slot.recompute_flops;
  const Microseconds all = recomputing_time(block, pass, flops);
  for (plan::SlotShape& slot : block.slots)
    slot.recompute_time = flops > 0 ? all * (slot.recompute_flops / flops) : Microseconds{};
}

std::vector<std::string> targets_of(const Config& config, const models::DecoderSpec& spec) {
  try {
    return models::resolve_lora_targets(spec, config.lora_target_modules, config.lora_target_linear);
  } catch (const SetupError& error) {
    throw SetupError(config.file.string() + ": " + error.error().message, error.error().hint);
  }
}

models::AdapterSpec adapter_from(const Config& config, const models::DecoderSpec& spec) {
  models::AdapterSpec adapter;
  adapter.rank = config.lora_r;
  adapter.alpha = config.lora_alpha;
  adapter.rank_stabilised = config.peft_use_rslora.value_or(false);
  adapter.decomposed = config.peft_use_dora.value_or(false);
  adapter.dropout = config.lora_dropout.value_or(0);
  adapter.target_modules = targets_of(config, spec);
  return adapter;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "[" : ", ") + name;
  return text + "]";
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

// An existing adapter's settings against those of the job file: what is given there must agree, what is not is taken.
class AdapterComparison {
 public:
  AdapterComparison(std::filesystem::path adapter, bool resumes) : adapter_(std::move(adapter)), resumes_(resumes) {}

  void compare(const std::string& key, bool given, const std::string& ours, const std::string& theirs) {
    if (!given) taken_ += (taken_.empty() ? "" : ", ") + key + " " + theirs;
    if (!given || ours == theirs) return;
    throw SetupError(
        key + " is " + ours + " in the job file and " + theirs + " in " +
            (adapter_ / models::kAdapterConfigFile).string(),
        resumes_ ? "give " + key + ": " + theirs + ", as when the job began, or start anew in another output_dir"
                 : "remove " + key + " to take the adapter's, or remove lora_model_dir for a new adapter");
  }
  std::string note() const { return taken_.empty() ? "" : "taken from " + adapter_.string() + ": " + taken_; }

 private:
  std::filesystem::path adapter_;
  bool resumes_;
  std::string taken_;
};

// Sets the dropout of `adapter`, which is the training's, not the adapter's. `resumes`: the adapter is of a checkpoint.
std::string settle_adapter(const Config& config, const models::DecoderSpec& spec, const std::filesystem::path& from,
                           bool resumes, models::AdapterSpec& adapter) {
  AdapterComparison settings(from, resumes);
  settings.compare("lora_r", config.lora_r > 0, std::to_string(config.lora_r), std::to_string(adapter.rank));
  settings.compare("lora_alpha", config.lora_alpha > 0, number(config.lora_alpha), number(adapter.alpha));
  const auto yes_or_no = [](bool value) { return std::string(value ? "true" : "false"); };
  for (const auto& [key, ours, theirs] :
       {std::tuple("peft_use_rslora", config.peft_use_rslora, adapter.rank_stabilised),
        std::tuple("peft_use_dora", config.peft_use_dora, adapter.decomposed)})
    if (ours || theirs) settings.compare(key, ours.has_value(), yes_or_no(ours.value_or(false)), yes_or_no(theirs));
  const bool targets_given = config.lora_target_linear || !config.lora_target_modules.empty();
  const std::vector<std::string> targets = targets_given ? targets_of(config, spec) : std::vector<std::string>();
  settings.compare("lora_target_modules", targets_given, joined(targets), joined(adapter.target_modules));
  const bool new_adapter = config.lora_model_dir.empty();
  if (!resumes && config.lora_dropout) {
    adapter.dropout = *config.lora_dropout;
  } else {
    settings.compare("lora_dropout", config.lora_dropout || new_adapter, number(config.lora_dropout.value_or(0)),
                     number(adapter.dropout));
  }
  return settings.note();
}

}  // namespace

ModelSetup set_up_model(const Config& config, const std::filesystem::path& weights_from) {
  ModelSetup setup;
  setup.spec = models::read_decoder_spec(config.base_model / "config.json");
  models::copies_of(config.base_model);  // what they would refuse is refused now
  const bool adapts = config.adapter == Adapter::lora;
  const std::filesystem::path adapter_from_dir = !weights_from.empty() ? weights_from : config.lora_model_dir;
  setup.stored = models::TensorIndex::of_directory(adapts || weights_from.empty() ? config.base_model : weights_from);
  setup.low_bits = LowBitBase(config, setup.spec, setup.stored);
  setup.base = setup.low_bits.files(setup.stored);
  if (adapts && !adapter_from_dir.empty()) {
    models::AdapterDirectory existing = models::read_adapter_directory(adapter_from_dir, setup.spec);
    setup.adapter = existing.spec;
    setup.note = settle_adapter(config, setup.spec, adapter_from_dir, !weights_from.empty(), *setup.adapter);
    setup.adapter_tensors = std::move(existing.tensors);
  } else if (adapts) {
    setup.adapter = adapter_from(config, setup.spec);
  }
  setup.model = models::build_decoder(setup.spec, setup.adapter, config.compute_dtype, models::cpu_ops(),
                                      setup.low_bits.formats(), !config.own_loss.empty());
  setup.places = models::locate_base_weights(setup.base, setup.spec, setup.model.groups);
  for (const models::ParameterGroup& group : setup.model.groups)
    setup.states.push_back(
        state_layout_of(group, config.offload.optimizer_state, config.compute_dtype, config.update_rule));
  if (setup.adapter_tensors) {
    models::GroupSources adapters = models::locate_adapter_weights(*setup.adapter_tensors, setup.model.groups);
    for (size_t g = 0; g < adapters.size(); ++g)
      if (!adapters[g].empty()) setup.places[g] = std::move(adapters[g]);
  }
  return setup;
}

namespace {

// Grows the last range, or begins one.
void append(std::vector<ElementRange>& ranges, ElementRange range) {
  if (!ranges.empty() && range.begin <= ranges.back().end) {
    ranges.back().end = std::max(ranges.back().end, range.end);
  } else {
    ranges.push_back(range);
  }
}

StateLayout int8_layout(const models::ParameterGroup& group, Dtype weights, UpdateRule rule) {
  std::vector<ElementRange> exact, gaps;
  for (size_t i = 0; i < group.tensors.size(); ++i) {
    const models::ParameterTensor& tensor = group.tensors[i];
    const int64_t end = tensor.offset + tensor.elements;
    const int64_t next = i + 1 < group.tensors.size() ? group.tensors[i + 1].offset : group.elements;
    if (tensor.elements < kExactElements) {
      append(exact, {round_down(tensor.offset, kStateBlock), round_up(end, kStateBlock)});
    } else if (end < next) {
      gaps.push_back({end, next});
    }
  }
  return {MomentFormat::int8, weights, std::move(exact), std::move(gaps), rule};
}

}  // namespace

StateLayout state_layout_of(const models::ParameterGroup& group, MomentFormat moments, Dtype weights, UpdateRule rule) {
  if (!group.trainable) return {};
  return moments == MomentFormat::int8 ? int8_layout(group, weights, rule)
                                       : StateLayout(moments, weights, {}, {}, rule);
}

exec::JobSources sources_of(const ModelSetup& setup, int64_t chunk_elements) {
  exec::JobSources sources;
  sources.files = setup.base.files;
  const auto first_adapter_file = static_cast<int>(sources.files.size());
  if (setup.adapter_tensors)
    sources.files.insert(sources.files.end(), setup.adapter_tensors->files.begin(), setup.adapter_tensors->files.end());
  // Of an adapter that is not written yet: to the byte, as what is read with a tensor depends on where it begins.
  std::map<std::string, models::TensorLocation> unwritten;
  for (size_t g = 0; g < setup.model.groups.size(); ++g) {
    const models::ParameterGroup& group = setup.model.groups[g];
    std::vector<models::TensorLocation> places = setup.places[g];
    if (places.empty()) {
      if (unwritten.empty())
        for (const models::TensorLocation& tensor : initial_adapter_layout(setup).tensors)
          unwritten[tensor.name] = tensor;
      for (const models::ParameterTensor& tensor : group.tensors) places.push_back(unwritten.at(tensor.name));
    }
    const bool adapter = models::is_adapter_group(group);
    sources.weights.push_back(exec::locate(group, places, adapter ? first_adapter_file : 0,
                                           group.packed ? 2 * chunk_elements : chunk_elements));
  }
  return sources;
}

exec::PassSize pass_size(const ModelSetup& setup, const BatchShape& batch) {
  const Dtype gradients = batch.micro_batches == 1 ? setup.model.compute_dtype : Dtype::f32;
  return {batch.tokens_max, std::min(batch.document_max, batch.tokens_max), gradients};
}

plan::JobShape shape_of(const ModelSetup& setup, const exec::JobSources& sources, const BatchShape& batch,
                        const exec::BlockPasses& passes) {
  const models::Model& model = setup.model;
  const int64_t weight_bytes = size_of(model.compute_dtype);
  plan::JobShape shape;
  shape.tokens_max = batch.tokens_max;
  shape.micro_batches = batch.micro_batches;
  shape.boundary_bytes = Bytes{batch.tokens_max * model.hidden * weight_bytes};
  shape.gradient_bytes_per_element = size_of(pass_size(setup, batch).gradient_dtype);
  for (size_t g = 0; g < model.groups.size(); ++g)
    shape.groups.push_back({model.groups[g].name, model.groups[g].trainable, model.groups[g].elements,
                            model.groups[g].weight_bytes_per_element(model.compute_dtype), setup.states[g],
                            Bytes{sources.weights[g].staging_bytes_max}});
  for (const auto& block : model.blocks) {
    plan::BlockShape each;
    each.name = block->name();
    each.groups.assign(block->groups().begin(), block->groups().end());
    const auto tokens = static_cast<double>(batch.tokens_max);
    for (const models::SlotSpec& slot : block->slots())
      each.slots.push_back({slot.name, Bytes{batch.tokens_max * slot.elements_per_token * size_of(slot.dtype)},
                            slot.recompute_flops_per_token * tokens});
    const models::BlockCost cost = block->cost();
    const double attention =
        cost.attention_flops_per_token_per_position * static_cast<double>(batch.document_max) / 2 * tokens;
    each.forward_flops = cost.forward_flops_per_token * tokens + attention + cost.each_pass.flops();
    each.backward_flops = cost.backward_flops_per_token * tokens + 2.5 * attention + cost.each_pass.flops();
    set_times(each, passes.blocks[shape.blocks.size()]);
    each.workspace_bytes = [program = block.get(), most = batch.tokens_max](plan::ComputePass pass,
                                                                            std::span<const uint8_t> kept) {
      return program->workspace_bytes(
          pass == plan::ComputePass::forward ? models::Pass::forward : models::Pass::backward, most, kept);
    };
    shape.blocks.push_back(std::move(each));
  }
  shape.process_bytes = resident_bytes() + kThreads + passes.resident_later;
  shape.transient_bytes = passes.transient;
  shape.device_transient_bytes = passes.device_transient;
  if (passes.in_host) shape.measuring_bytes = measuring_memory(model, pass_size(setup, batch));
  return shape;
}

Bytes measuring_memory(const models::Model& model, const exec::PassSize& size) {
  return std::max(exec::pass_memory(model, size), exec::layer_load_memory(model, size) + exec::kRateProbeBytesLeast);
}

std::vector<uint8_t> source_low_bits(const ModelSetup& setup, const exec::JobSources& sources) {
  std::vector<uint8_t> low_bits;
  for (size_t g = 0; g < setup.model.groups.size(); ++g)
    low_bits.push_back(setup.model.groups[g].trainable &&
                       (setup.model.compute_dtype == Dtype::f16 ||
                        (setup.model.compute_dtype == Dtype::bf16 && sources.weights[g].wider_than_bf16)));
  return low_bits;
}

}  // namespace sluice::train
