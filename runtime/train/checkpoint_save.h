// Writes checkpoints and results, under a temporary name first.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/work.h"
#include "runtime/exec/executor.h"
#include "runtime/train/config.h"
#include "runtime/train/loss_scale.h"
#include "runtime/train/manifest.h"
#include "runtime/train/model_setup.h"

namespace sluice::train {

struct CheckpointState {
  int64_t step = 0;  // done, those that fp16 skipped among them
  int64_t steps_total = 0;
  double start_seconds = 0;                  // launch to the first step's begin
  std::vector<double> validation_losses;     // in the order of evaluation
  bool odd = false;                          // as in plan::Phase
  std::string dataset_hash;                  // TokenDataset::content_hash
  std::optional<LossScaleState> loss_scale;  // of fp16
};

// What a checkpoint folder holds.
enum class CheckpointOf : uint8_t {
  model_and_states,  // complete in itself: a Hugging Face directory or peft adapter, and the optimizer's states
  model,             // `save_only_model`: without these, so that it cannot be resumed
};

// All of them after a flush. They block on the drive, and on a full one wait as long as `patience` lasts: what was
// written is written again where only a sync met the full drive. They throw RunError, and leave an unfinished folder
// under a name that is never read.
std::filesystem::path save_copy(exec::Executor& executor, const ModelSetup& setup, const Config& config,
                                const CheckpointState& state, CheckpointOf of, const SpacePatience& patience,
                                WorkObserver& observer = nobody());

// A checkpoint without copies of what lies on disk: swap files are synced, `extents` are frozen by the caller once this
// returns. Only what lives in memory is written.
std::filesystem::path save_manifest(exec::Executor& executor, const swap::SwapEngine& swap, const ModelSetup& setup,
                                    const plan::Plan& plan, const Config& config, const CheckpointState& state,
                                    const SpacePatience& patience);

// A checkpoint where no step has changed anything since `from`: with its files, and what is new beside them.
std::filesystem::path renew_checkpoint(const std::filesystem::path& from, const ModelSetup& setup, const Config& config,
                                       const CheckpointState& state, const SpacePatience& patience);

// Writes the model or adapter to the top of output_dir, file by file under another name first.
void export_model(exec::Executor& executor, const ModelSetup& setup, const Config& config, const CheckpointState& state,
                  const SpacePatience& patience, WorkObserver& observer = nobody());
// The same from a checkpoint with a manifest, without a run.
void export_model(const std::filesystem::path& checkpoint, const ModelSetup& setup, const Config& config,
                  const SpacePatience& patience, WorkObserver& observer = nobody());

// Puts a checkpoint's model at the top of output_dir, sharing files where the file system links.
void publish_result(const std::filesystem::path& checkpoint, const std::filesystem::path& output_dir,
                    const SpacePatience& patience);

}  // namespace sluice::train
