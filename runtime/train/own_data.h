// Batches that the runtime's caller makes, in place of a job's datasets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/train/config.h"
#include "runtime/train/data.h"
#include "runtime/train/run_data.h"

namespace sluice::train {

// A micro-batch as its maker gives it: documents laid end to end, N tokens.
struct OwnBatch {
  std::vector<int32_t> token_ids;  // [N]
  // [N], not shifted: of each token what is to be learnt there, itself or another, or -100 for nothing; empty: all.
  std::vector<int32_t> labels;
  std::vector<int32_t> document_starts;  // ascending, the first 0; empty: one document
};
// Fills the micro-batch `index` of step `step`, both counted from 0. False: the step has no more; each has one at
// least.
using OwnSource = std::function<bool(int64_t step, int64_t index, OwnBatch& batch)>;

// Gives the document of a row: at most sequence_len tokens.
using OwnRow = std::function<void(int64_t row, OwnBatch& document)>;

// Batches as `source` makes them, max_steps steps; or `rows` rows, which the job shuffles, batches and repeats as it
// does those of a dataset.
struct OwnData {
  OwnSource source;
  int64_t rows = 0;
  OwnRow row;
  std::string name;  // what a checkpoint remembers it by: it is not resumed with another
};

// What every batch must keep to: the job's `micro_batch_size` documents of `sequence_len` tokens at most.
struct OwnLimits {
  OwnLimits(const Config& config, int64_t vocabulary);
  // Beside a job that was planned for its own rows: not more than those.
  void keep_to(int64_t longest_document, int64_t tokens, int64_t micro_batches);

  int64_t documents_max = 0, document_max = 0, tokens_max = 0, micro_batches_max = 0, vocabulary = 0;
  std::string document_fix;  // what to do where a document has more than document_max tokens
  std::string tokens_fix;    // where a micro-batch has more than tokens_max
};

// Sets `save_steps` where the job gives it per epoch. Throws SetupError when the job does not say how many steps there
// are.
std::unique_ptr<RunData> own_data(Config& config, OwnData data, int64_t vocabulary);

// All micro-batches of one step, checked, labels shifted. Throws SetupError naming step and micro-batch, and what the
// source throws.
StepData read_own_step(const OwnSource& source, int64_t step, const OwnLimits& limits);

}  // namespace sluice::train
