// Going on from a checkpoint `output_dir/checkpoint-N`: a Hugging Face directory (or peft adapter) with the optimizer's
// states beside it, or a manifest of what stayed in swap files. `checksums.json` and the manifest say what is in the
// files, so that damage that came later is found before anything is trained on it.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/file_identity.h"
#include "runtime/core/work.h"
#include "runtime/exec/executor.h"
#include "runtime/train/config.h"
#include "runtime/train/loss_scale.h"
#include "runtime/train/model_setup.h"

namespace sluice::train {

struct Resume {
  std::filesystem::path folder;
  int64_t step = 0;
  std::optional<LossScaleState> loss_scale;
  bool in_swap_files = false;               // by a manifest
  std::shared_ptr<const OpenFolder> found;  // the folder as it was then, whatever has its name later
};
// What the config asks to resume from, if anything. Reads no tensors, writes nothing; says on stderr which settings
// have changed. Throws SetupError: no such checkpoint, or one of another job.
std::optional<Resume> find_resume(const Config& config);
// Reads all of it. Throws SetupError naming the file, and the newest other checkpoint, when its bytes are not those
// that were written. One without checksums (written by an older version) passes with a note.
void verify_checkpoint(const Resume& resume, WorkObserver& observer = nobody());
// Throws SetupError: the checkpoint's model or rows were others. See model_record.h, TokenDataset::content_hash.
void refuse_other_inputs(const Resume& resume, const ModelSetup& setup, const std::string& dataset_hash);

}  // namespace sluice::train
