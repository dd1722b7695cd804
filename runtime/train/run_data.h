// What a run trains on and is validated with, by step: the job's own token files, or batches that its caller makes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/core/work.h"
#include "runtime/train/config.h"
#include "runtime/train/data.h"

namespace sluice::train {

// Not thread-safe.
class RunData {
 public:
  virtual ~RunData() = default;

  virtual int64_t steps_total() const = 0;
  // The most micro-batches that any step has.
  virtual int64_t micro_batches_max() const = 0;
  // The most tokens of any micro-batch of so many rows, those of validation among them, and of any document.
  virtual int64_t tokens_max(int64_t micro_batch_size) const = 0;
  virtual int64_t longest_document() const = 0;
  // What a checkpoint remembers the data by.
  virtual const std::string& content_hash() const = 0;

  // Of step `step`, counted from 0; a function of it alone. Throws RunError, or what the caller's own source throws.
  virtual StepData training(int64_t step) = 0;
  virtual bool validates() const = 0;
  // Validation batches of so many micro-batches each.
  virtual int64_t validation_batches(int64_t micro_batches) const = 0;
  virtual StepData validation(int64_t batch, int64_t micro_batches) = 0;
};

// The job's datasets as token files, prepared when the cache has none. Sets `eval_steps` and `save_steps` where the job
// gives them per epoch. `vocabulary` and `positions_max`: the model's. Throws SetupError.
std::unique_ptr<RunData> open_datasets(Config& config, int64_t vocabulary, int64_t positions_max,
                                       WorkObserver& observer = nobody());

}  // namespace sluice::train
