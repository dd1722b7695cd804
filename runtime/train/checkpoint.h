// Checkpoints: `output_dir/checkpoint-N`, a Hugging Face directory (or peft adapter) with the optimizer's states beside
// it. Written under a temporary name, synced, then renamed: a folder with that name is whole. `checksums.json` says
// what is in the files, so that damage that came later is found before anything is trained on it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/exec/executor.h"
#include "runtime/train/config.h"
#include "runtime/train/loss_scale.h"
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

struct Resume {
  std::filesystem::path folder;
  int64_t step = 0;
  std::optional<LossScaleState> loss_scale;
};

// After a flush. Throws RunError; an unfinished folder is left under a name that is never read.
std::filesystem::path save_checkpoint(exec::Executor& executor, const ModelSetup& setup, const Config& config,
                                      const CheckpointState& state);

// The same where no step has changed anything since `resume`: with its tensors, and what is new beside them.
std::filesystem::path renew_checkpoint(const Resume& resume, const ModelSetup& setup, const Config& config,
                                       const CheckpointState& state);

// Oldest first. Folders not whole are passed over.
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& output_dir);
// Removes all but the newest `limit` (0: keeps all).
void prune_checkpoints(const std::filesystem::path& output_dir, int64_t limit);

// What the config asks to resume from, if anything. Reads no tensors, writes nothing; says on stderr which settings
// have changed. Throws SetupError: no such checkpoint, or one of another job.
std::optional<Resume> find_resume(const Config& config);
// Reads all of it. Throws SetupError naming the file, and the newest other checkpoint, when its bytes are not those
// that were written. One without checksums (written by an older version) passes with a note.
void verify_checkpoint(const Resume& resume);
// Throws SetupError: the checkpoint's model or rows were others. See model_record.h, TokenDataset::content_hash.
void refuse_other_inputs(const Resume& resume, const ModelSetup& setup, const std::string& dataset_hash);
// What a killed run left half-written in its output_dir.
void remove_partial_checkpoints(const std::filesystem::path& output_dir);

// Adds the checkpoint's states to `sources`. Throws SetupError when they do not fit the model.
void add_resumed_states(const Resume& resume, const ModelSetup& setup, exec::JobSources& sources);

// Puts the finished model at the top of output_dir, sharing the checkpoint's files where the file system links.
void publish_result(const std::filesystem::path& checkpoint, const std::filesystem::path& output_dir);

}  // namespace sluice::train
