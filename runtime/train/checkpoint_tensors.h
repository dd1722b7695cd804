// The tensor files of checkpoints and results, written as trained groups come from the executor.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/model_output.h"
#include "runtime/core/state_layout.h"
#include "runtime/train/model_setup.h"
#include "runtime/train/tensor_file_writer.h"

namespace sluice::train {

// Names in such a file: "layer.0.exp_avg", and "layer.0.weights" where weights are not in a model's own files.
std::string state_name(const models::ParameterGroup& group, StatePart part);
std::string flat_weights_name(const models::ParameterGroup& group);

// Calls act(group, part, span) for every part of every trained group's states.
template <class Act>
void for_each_state(const ModelSetup& setup, const Act& act) {
  for (size_t g = 0; g < setup.model.groups.size(); ++g) {
    const models::ParameterGroup& group = setup.model.groups[g];
    if (!group.trainable) continue;
    const StateSpans spans = setup.states[g].spans(0, group.elements);
    for (size_t part = 0; part < spans.size(); ++part)
      if (spans[part].count > 0) act(g, static_cast<StatePart>(part), spans[part]);
  }
}

// Which of the trained groups' weights and states a file holds.
struct FlatContent {
  std::function<bool(size_t group)> weights, states;
};

// Groups as they lie in memory: a tensor per part.
class FlatWriter {
 public:
  // `setup` must outlive it.
  FlatWriter(const ModelSetup& setup, const FlatContent& content, const std::filesystem::path& folder,
             const std::string& name, const std::string& format, const SpacePatience& patience);
  void weights(int g, std::span<const std::byte> bytes);
  void states(int g, int64_t begin, int64_t end, std::span<const std::byte> bytes);
  // Syncs and adds what is in it.
  void finish(Checksums& sums);

 private:
  const ModelSetup& setup_;
  std::string name_;
  models::TensorFileLayout layout_;
  TensorFileWriter file_;
  std::map<std::string, models::TensorLocation> places_;
};

// A model's or an adapter's own files.
class ModelWriter {
 public:
  ModelWriter(const ModelSetup& setup, models::ModelOutput output, const std::filesystem::path& folder,
              const SpacePatience& patience);
  void weights(int g, std::span<const std::byte> bytes);
  // Adapters are saved as their fp32 masters, as peft saves them: these need the states.
  bool needs_states() const;
  void states(int g, int64_t begin, int64_t end, std::span<const std::byte> bytes);
  // Writes the files that are no tensors, syncs all, and adds what is in them.
  void finish(Checksums& sums);

 private:
  bool widens(const models::ParameterGroup& group) const;
  void keep_masters(const models::ParameterGroup& group, int64_t begin, int64_t end, const std::byte* beside);
  void write_tensors(const models::ParameterGroup& group, std::span<const std::byte> bytes, int64_t each);

  const ModelSetup& setup_;
  models::ModelOutput output_;
  std::filesystem::path folder_;
  SpacePatience patience_;
  std::vector<TensorFileWriter> files_;
  std::vector<uint16_t> high_;
  std::vector<float> master_;
};

// Writes a small file and adds it.
void write_text(const std::filesystem::path& folder, const std::string& name, const std::string& text, Checksums& sums,
                const SpacePatience& patience);

}  // namespace sluice::train
