#include "runtime/embed/parameters.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "models/nearest_name.h"
#include "runtime/core/half.h"
#include "runtime/core/result.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checkpoint_sources.h"
#include "runtime/train/stored_tensors.h"

namespace sluice::embed {
namespace {

struct Place {
  const models::ParameterGroup* group = nullptr;
  int index = 0;  // of the group
  const models::ParameterTensor* tensor = nullptr;
};

Place find(const train::Job& job, const std::string& name) {
  std::vector<std::string> names;
  const std::vector<models::ParameterGroup>& groups = job.setup.model.groups;
  for (size_t g = 0; g < groups.size(); ++g)
    for (const models::ParameterTensor& tensor : groups[g].tensors) {
      if (tensor.name == name) return {&groups[g], static_cast<int>(g), &tensor};
      names.push_back(tensor.name);
    }
  throw SetupError("the model has no tensor '" + name + "'",
                   "did you mean '" + models::nearest_name(name, names) + "'?");
}

void widen(std::span<const std::byte> weights, Dtype dtype, std::span<float> values) {
  const auto each = static_cast<size_t>(size_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == Dtype::f32) {
      std::memcpy(&values[i], weights.data() + i * each, each);
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, weights.data() + i * each, each);
    values[i] = dtype == Dtype::bf16 ? bf16_to_float(bits) : f16_to_float(bits);
  }
}

void refuse_other_size(const models::ParameterTensor& tensor, size_t given) {
  if (static_cast<int64_t>(given) == tensor.elements) return;
  throw SetupError(tensor.name + " has " + std::to_string(tensor.elements) + " elements, and " + std::to_string(given) +
                       " are given",
                   "parameters() tells each tensor's shape");
}

// The part of masters that compute sees (core/dtype.h), and what lies with the states beyond it.
void put_weights(std::span<const float> masters, Dtype dtype, std::span<std::byte> weights) {
  const auto put = [&](size_t i, auto weight) {
    std::memcpy(weights.data() + i * sizeof weight, &weight, sizeof weight);
  };
  for (size_t i = 0; i < masters.size(); ++i) {
    if (dtype == Dtype::f32) put(i, masters[i]);
    if (dtype == Dtype::bf16) put(i, split_master(masters[i]).hi);
    if (dtype == Dtype::f16) put(i, float_to_f16(masters[i]));
  }
}
void put_masters(std::span<const float> masters, Dtype stored, std::span<std::byte> states) {
  if (stored == Dtype::f32) {
    std::memcpy(states.data(), masters.data(), masters.size_bytes());
    return;
  }
  for (size_t i = 0; i < masters.size(); ++i) {
    const int16_t low = split_master(masters[i]).lo;
    std::memcpy(states.data() + i * sizeof low, &low, sizeof low);
  }
}

// What a weight of the job's files becomes when it streams.
float as_computed(float value, Dtype dtype) {
  if (dtype == Dtype::bf16) return bf16_to_float(float_to_bf16(value));
  if (dtype == Dtype::f16) return f16_to_float(float_to_f16(value));
  return value;
}

void read_stored(const train::Job& job, const models::ParameterTensor& tensor, std::span<float> values) {
  const models::TensorIndex* index = &job.setup.stored;
  if (!index->tensors.contains(tensor.name) && job.setup.adapter_tensors) index = &*job.setup.adapter_tensors;
  const models::TensorLocation& place = index->at(tensor.name, tensor.shape);
  constexpr int64_t kPieceElements = 1 << 20;
  train::read_in_pieces(index->files, place, kPieceElements, [&](int64_t begin, std::span<float> piece) {
    for (size_t i = 0; i < piece.size(); ++i)
      values[static_cast<size_t>(begin) + i] = as_computed(piece[i], job.setup.model.compute_dtype);
  });
}

}  // namespace

std::vector<Parameter> parameters_of(const train::Job& job) {
  std::vector<Parameter> all;
  for (const models::ParameterGroup& group : job.setup.model.groups)
    for (const models::ParameterTensor& tensor : group.tensors)
      all.push_back({tensor.name, tensor.shape, group.trainable});
  return all;
}

void read_parameter(const train::Job& job, train::TrainingRun* run, const std::string& name, std::span<float> values) {
  const auto [group, g, tensor] = find(job, name);
  refuse_other_size(*tensor, values.size());
  if (group->packed && size_of(tensor->packed_as) == 1)
    throw SetupError(name + " is in low bits, frozen", "read it from base_model's files");
  if (!group->trainable) return read_stored(job, *tensor, values);
  const Dtype dtype = job.setup.model.compute_dtype;
  const auto take = [&](std::span<const std::byte> weights) {
    widen(weights.subspan(static_cast<size_t>(tensor->offset * size_of(dtype))), dtype, values);
  };
  const auto index = static_cast<size_t>(g);
  // What the plan keeps on disk is not there before a step.
  if (run && (run->has_changed() || job.planned.plan.groups[index].weights != Tier::disk))
    run->read_weights(g, [&](int, std::span<const std::byte> weights) { take(weights); });
  else if (job.resume && train::has_manifest(job.resume->folder))
    take(train::read_weights(train::sources_in(job.resume->folder, job.setup), job.setup, index));
  else
    read_stored(job, *tensor, values);
}

void write_parameter(const train::Job& job, train::TrainingRun* run, const std::string& name,
                     std::span<const float> values) {
  const auto [group, g, tensor] = find(job, name);
  refuse_other_size(*tensor, values.size());
  if (!group->trainable) throw SetupError(name + " is frozen", "parameters() tells which are trained");
  const Dtype dtype = job.setup.model.compute_dtype;
  const auto outside = std::find_if(values.begin(), values.end(),
                                    [&](float value) { return !std::isfinite(as_computed(value, dtype)); });
  if (outside != values.end())
    throw SetupError(name + ": " + std::to_string(*outside) + " is not finite in " + std::string(name_of(dtype)),
                     "give finite numbers that it holds");
  if (run == nullptr || !run->has_changed())
    throw SetupError("nothing has been trained since this Trainer was made: " + name + " is still that of the files",
                     "change the files of base_model, or write it after a step");
  const StateLayout& layout = job.shape.groups[static_cast<size_t>(g)].states;
  const int64_t first = tensor->offset, last = first + tensor->elements;
  const auto change_weights = [&](std::span<std::byte> weights) {
    put_weights(values, dtype, weights.subspan(static_cast<size_t>(first * size_of(dtype))));
  };
  const auto change_masters = [&](int64_t begin, int64_t end, std::span<std::byte> states) {
    const int64_t from = std::max(first, begin), to = std::min(last, end);
    const StateSpan masters = layout.span(StatePart::master, begin, end);
    put_masters(values.subspan(static_cast<size_t>(from - first), static_cast<size_t>(to - from)), masters.dtype,
                states.subspan(static_cast<size_t>(masters.offset + (from - masters.begin) * size_of(masters.dtype))));
  };
  // fp32 weights are their own masters.
  run->change(g, first, last, change_weights, dtype == Dtype::f32 ? exec::StatesChange() : change_masters);
}

std::optional<ParameterView> view_parameter(const train::Job& job, train::TrainingRun* run, const std::string& name) {
  const auto [group, g, tensor] = find(job, name);
  if (!group->trainable || run == nullptr || job.planned.plan.groups[static_cast<size_t>(g)].weights != Tier::host)
    return std::nullopt;
  const Dtype dtype = job.setup.model.compute_dtype;
  ParameterView view{nullptr, std::string(name_of(dtype))};
  run->read_weights(g, [&](int, std::span<const std::byte> weights) {
    view.data = weights.data() + tensor->offset * size_of(dtype);
  });
  return view;
}

}  // namespace sluice::embed
