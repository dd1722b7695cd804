// Where a checkpoint's weights and states lie: in its own tensor files, or in the swap files that its manifest names.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "runtime/exec/executor.h"
#include "runtime/exec/source_table.h"
#include "runtime/train/model_setup.h"

namespace sluice::train {

struct CheckpointSources {
  std::vector<std::filesystem::path> files;
  std::vector<std::vector<exec::SourceSegment>> weights;  // per group; empty where they are in a model's own files
  std::vector<exec::StateSource> states;                  // per group
};

// Throws SetupError when they do not fit the model, or the optimizer's states.
CheckpointSources sources_in(const std::filesystem::path& checkpoint, const ModelSetup& setup);

// Weights of one group, in the compute dtype. Throws SetupError: a file cannot be read.
std::vector<std::byte> read_weights(const CheckpointSources& sources, const ModelSetup& setup, size_t group);

// Makes the job go on from them.
void add_sources(const CheckpointSources& from, const ModelSetup& setup, int64_t chunk_elements,
                 exec::JobSources& sources);
// The most that staging a chunk of a group's states takes; 0: there are none.
Bytes states_staging_bytes(const exec::JobSources& sources, const ModelSetup& setup, size_t group,
                           int64_t chunk_elements);

}  // namespace sluice::train
