// From a model directory to what the planner and the executor need: programs, parameter groups, their places in the
// user's files, and the numbers of the job.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/locate_weights.h"
#include "models/safetensors.h"
#include "runtime/exec/block_pass.h"
#include "runtime/exec/executor.h"
#include "runtime/plan/job_shape.h"
#include "runtime/train/config.h"
#include "runtime/train/low_bit_base.h"

namespace sluice::train {

struct ModelSetup {
  models::DecoderSpec spec;
  std::optional<models::AdapterSpec> adapter;
  models::Model model;
  std::vector<StateLayout> states;                     // per group; of frozen ones meaningless
  models::TensorIndex stored;                          // the files of base_model, or of the checkpoint
  LowBitBase low_bits;                                 // empty: the base streams from those as it is
  models::TensorIndex base;                            // what streams
  std::optional<models::TensorIndex> adapter_tensors;  // an existing adapter's file
  models::GroupSources places;                         // per group; empty for adapters that start anew
  std::string note;                                    // what an existing adapter decided; empty: nothing
};

// Reads headers only. `weights_from`: the checkpoint to go on from, or empty. Throws SetupError.
ModelSetup set_up_model(const Config& config, const std::filesystem::path& weights_from);

// How the optimizer's states of a trained group lie: with 8-bit moments, tensors of fewer than kExactElements keep
// fp32.
StateLayout state_layout_of(const models::ParameterGroup& group, MomentFormat moments, Dtype weights, UpdateRule rule);

// `setup.places` must be complete, or an adapter's groups yet to be written are taken as fp32.
exec::JobSources sources_of(const ModelSetup& setup, int64_t chunk_elements);

struct BatchShape {
  int64_t tokens_max = 0;    // of one micro-batch
  int64_t document_max = 0;  // longest document
  int micro_batches = 1;
};
// Times and transient memory are as measured: exec::measure_block_passes.
plan::JobShape shape_of(const ModelSetup& setup, const exec::JobSources& sources, const BatchShape& batch,
                        const exec::BlockPasses& passes);
// What the passes are measured at.
exec::PassSize pass_size(const ModelSetup& setup, const BatchShape& batch);

// What measuring the job's block passes and rates takes at least.
Bytes measuring_memory(const models::Model& model, const exec::PassSize& size);

// Per group: virgin states take their low halves from a source with more bits than the compute weight.
std::vector<uint8_t> source_low_bits(const ModelSetup& setup, const exec::JobSources& sources);

}  // namespace sluice::train
