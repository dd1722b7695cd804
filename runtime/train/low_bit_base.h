// A frozen base in low bits: which of its matrices are, and the cache on disk that holds them in bitsandbytes' format.
// The cache is made once from the model's own files, and found again by what it was made of.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/low_bit_files.h"
#include "models/model_output.h"
#include "models/safetensors.h"
#include "runtime/core/work.h"
#include "runtime/train/config.h"
#include "runtime/train/low_bit_writer.h"

namespace sluice::train {

class LowBitBase {
 public:
  LowBitBase() = default;
  // `stored`: the files of base_model, whose descriptions of formats are taken out. Reads a sample of every tensor.
  // Throws SetupError: a format other than the job asks for, a cache that is not what it should be.
  LowBitBase(const Config& config, const models::DecoderSpec& spec, models::TensorIndex& stored);

  // Empty: the base is in plain types.
  const models::LowBitFormats& formats() const { return formats_; }
  // "nf4, double quantised"; empty as above.
  std::string description() const;
  // What the job reads: `stored`, with the cache's tensors in place of those that they were made of. Places are known
  // before the cache is there.
  models::TensorIndex files(const models::TensorIndex& stored) const;
  bool is_there() const { return files_.empty() || there_; }

  // Makes the cache where there is none, and shows how far it is. Matrices come one at a time, in pieces: a scale per
  // 64 elements of one is what is held. Killed at any time, it leaves nothing that is taken for a cache. Throws
  // SetupError when the drive has no room for it, RunError when writing fails.
  void make(const models::TensorIndex& stored, WorkObserver& observer = nobody());

 private:
  void ask(const Config& config, const models::DecoderSpec& spec, models::LowBitCheckpoint checkpoint);
  void plan_files(const std::string& key);
  void check_files() const;
  void write_files(const models::TensorIndex& stored, const std::filesystem::path& folder,
                   WorkObserver& observer) const;
  Bytes file_bytes() const;

  models::LowBitFormats formats_;
  std::vector<LowBitMatrix> matrices_;    // in the order in which they are read
  std::map<std::string, float> offsets_;  // of a checkpoint that is quantised already
  bool quantised_already_ = false;
  Dtype rounded_to_ = Dtype::f32;  // what values are rounded to before they are quantised
  std::filesystem::path folder_;
  std::vector<models::PlannedTensorFile> files_;
  bool there_ = false;
};

}  // namespace sluice::train
