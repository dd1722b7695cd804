#include "runtime/train/run_data.h"

#include <algorithm>
#include <filesystem>

#include "runtime/core/result.h"
#include "runtime/train/text_process.h"

namespace sluice::train {
namespace {

void refuse_long_rows(const TokenDataset& data, int64_t vocabulary, int64_t positions_max) {
  if (data.longest_document() > positions_max)
    throw SetupError(data.file().string() + ": the longest document has " + std::to_string(data.longest_document()) +
                         " tokens and the model's max_position_embeddings is " + std::to_string(positions_max),
                     "lower sequence_len");
  if (data.vocabulary() > vocabulary)
    throw SetupError("the tokenizer has " + std::to_string(data.vocabulary()) + " tokens and the model's embedding " +
                         std::to_string(vocabulary),
                     "use the tokenizer that belongs to base_model");
}

class TokenFiles : public RunData {
 public:
  TokenFiles(const Config& config, const PreparedData& files)
      : training_(files.train), steps_(config, training_.rows()) {
    if (!files.validation.empty()) validation_.emplace(files.validation);
  }

  const TokenDataset& training_rows() const { return training_; }
  const BatchPlan& steps() const { return steps_; }

  int64_t steps_total() const override { return steps_.steps_total(); }
  int64_t micro_batches_max() const override { return steps_.micro_batches_max(); }
  int64_t tokens_max(int64_t micro_batch_size) const override {
    const int64_t most = training_.tokens_max(micro_batch_size);
    return validation_ ? std::max(most, validation_->tokens_max(micro_batch_size)) : most;
  }
  int64_t longest_document() const override {
    const int64_t longest = training_.longest_document();
    return validation_ ? std::max(longest, validation_->longest_document()) : longest;
  }
  const std::string& content_hash() const override { return training_.content_hash(); }

  StepData training(int64_t step) override { return steps_.training(training_, step); }
  bool validates() const override { return validation_.has_value(); }
  int64_t validation_batches(int64_t micro_batches) const override {
    return validation_ ? steps_.validation_batches(*validation_, micro_batches) : 0;
  }
  StepData validation(int64_t batch, int64_t micro_batches) override {
    return steps_.validation(*validation_, batch, micro_batches);
  }

 private:
  TokenDataset training_;
  std::optional<TokenDataset> validation_;
  BatchPlan steps_;
};

}  // namespace

std::unique_ptr<RunData> open_datasets(Config& config, int64_t vocabulary, int64_t positions_max,
                                       WorkObserver& observer) {
  auto data = std::make_unique<TokenFiles>(config, prepare_data(config, {}, observer));
  refuse_long_rows(data->training_rows(), vocabulary, positions_max);
  if (config.evals_per_epoch > 0) config.eval_steps = data->steps().every(config.evals_per_epoch);
  if (config.saves_per_epoch > 0) config.save_steps = data->steps().every(config.saves_per_epoch);
  return data;
}

}  // namespace sluice::train
