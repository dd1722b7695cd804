#include "runtime/train/own_data.h"

#include <utility>

#include "runtime/core/check.h"
#include "runtime/core/result.h"

namespace sluice::train {
namespace {

std::string counted(int64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

class OwnBatchReader {
 public:
  OwnBatchReader(const OwnBatch& batch, const OwnLimits& limits, std::string where)
      : batch_(batch), limits_(limits), where_(std::move(where)) {}

  MicroBatchData read() {
    check_lengths();
    data_.token_ids.reserve(batch_.token_ids.size());
    const std::vector<int32_t> whole = {0};
    const std::vector<int32_t>& starts = batch_.document_starts.empty() ? whole : batch_.document_starts;
    if (starts.front() != 0) refuse("document_starts begins with " + std::to_string(starts.front()), "begin with 0");
    if (std::ssize(starts) > limits_.documents_max)
      refuse(counted(std::ssize(starts), "document"),
             "micro_batch_size allows " + std::to_string(limits_.documents_max) + ": raise it, or give fewer");
    data_.document_starts.push_back(0);
    for (size_t d = 0; d < starts.size(); ++d)
      append_document(starts[d], d + 1 < starts.size() ? starts[d + 1] : static_cast<int64_t>(batch_.token_ids.size()));
    if (std::ssize(data_.token_ids) > limits_.tokens_max)
      refuse(counted(std::ssize(data_.token_ids), "token"), limits_.tokens_fix);
    return std::move(data_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what, const std::string& fix) const {
    throw SetupError(where_ + ": " + what, fix);
  }

  void check_lengths() const {
    const int64_t tokens = std::ssize(batch_.token_ids);
    if (tokens == 0) refuse("no tokens", "give at least one, or end the step by returning false");
    if (!batch_.labels.empty() && std::ssize(batch_.labels) != tokens)
      refuse(counted(tokens, "token") + " and " + counted(std::ssize(batch_.labels), "label"),
             "give a label for each token (-100: nothing is learnt there), or none at all");
  }

  void append_document(int64_t begin, int64_t end) {
    if (end <= begin || end > std::ssize(batch_.token_ids))
      refuse("a document from token " + std::to_string(begin) + " to " + std::to_string(end),
             "document_starts ascends, and stays below the number of tokens");
    if (end - begin > limits_.document_max)
      refuse("a document of " + counted(end - begin, "token"), limits_.document_fix);
    for (int64_t i = begin; i < end; ++i) {
      const auto at = static_cast<size_t>(i);
      data_.token_ids.push_back(inside(batch_.token_ids[at], "token", i));
      data_.positions.push_back(static_cast<int32_t>(i - begin));
      const int32_t label = i + 1 < end ? label_of(at + 1) : kMaskedLabel;
      if (label != kMaskedLabel) ++data_.supervised;
      data_.labels.push_back(label);
    }
    data_.document_starts.push_back(static_cast<int32_t>(end));
  }

  int32_t label_of(size_t at) const {
    if (batch_.labels.empty()) return batch_.token_ids[at];  // checked as a token
    const int32_t label = batch_.labels[at];
    return label == kMaskedLabel ? label : inside(label, "label", static_cast<int64_t>(at));
  }

  int32_t inside(int32_t id, const char* what, int64_t at) const {
    if (id < 0 || id >= limits_.vocabulary)
      refuse(std::string(what) + " " + std::to_string(id) + " at position " + std::to_string(at) +
                 " is outside the model's vocabulary of " + std::to_string(limits_.vocabulary),
             "use the tokenizer that belongs to base_model");
    return id;
  }

  const OwnBatch& batch_;
  const OwnLimits& limits_;
  std::string where_;
  MicroBatchData data_;
};

class OwnRunData : public RunData {
 public:
  OwnRunData(std::string name, const OwnLimits& limits) : limits_(limits), name_("own:" + name) {}

  int64_t tokens_max(int64_t micro_batch_size) const override { return micro_batch_size * limits_.document_max; }
  int64_t longest_document() const override { return limits_.document_max; }
  const std::string& content_hash() const override { return name_; }
  bool validates() const override { return false; }
  int64_t validation_batches(int64_t) const override { return 0; }
  StepData validation(int64_t, int64_t) override {
    SLUICE_CHECK(false, "own data has no validation rows");
    return {};
  }

 protected:
  const OwnLimits limits_;

 private:
  std::string name_;
};

class OwnBatches final : public OwnRunData {
 public:
  OwnBatches(OwnData data, int64_t steps, const OwnLimits& limits)
      : OwnRunData(data.name, limits), source_(std::move(data.source)), steps_(steps) {}
  int64_t steps_total() const override { return steps_; }
  int64_t micro_batches_max() const override { return limits_.micro_batches_max; }
  StepData training(int64_t step) override { return read_own_step(source_, step, limits_); }

 private:
  OwnSource source_;
  int64_t steps_;
};

class OwnRows final : public OwnRunData {
 public:
  OwnRows(OwnData data, const BatchPlan& steps, const OwnLimits& limits)
      : OwnRunData(data.name, limits), row_(std::move(data.row)), steps_(steps) {}
  int64_t steps_total() const override { return steps_.steps_total(); }
  int64_t micro_batches_max() const override { return steps_.micro_batches_max(); }

  StepData training(int64_t step) override {
    StepData data;
    for (const std::vector<int64_t>& rows : steps_.rows_of(step)) {
      MicroBatchData& batch = data.micro_batches.emplace_back();
      batch.document_starts.push_back(0);
      for (const int64_t row : rows) append(row, batch);
      data.supervised += batch.supervised;
    }
    return data;
  }

 private:
  void append(int64_t row, MicroBatchData& to) {
    OwnBatch given;
    row_(row, given);
    const std::string where = "row " + std::to_string(row);
    if (given.document_starts.size() > 1) throw SetupError(where + ": several documents", "give each a row");
    const MicroBatchData document = OwnBatchReader(given, limits_, where).read();
    to.token_ids.insert(to.token_ids.end(), document.token_ids.begin(), document.token_ids.end());
    to.labels.insert(to.labels.end(), document.labels.begin(), document.labels.end());
    to.positions.insert(to.positions.end(), document.positions.begin(), document.positions.end());
    to.document_starts.push_back(static_cast<int32_t>(to.token_ids.size()));
    to.supervised += document.supervised;
  }

  OwnRow row_;
  BatchPlan steps_;
};

}  // namespace

OwnLimits::OwnLimits(const Config& config, int64_t vocabulary)
    : documents_max(config.micro_batch_size),
      document_max(config.sequence_len),
      tokens_max(documents_max * document_max),
      micro_batches_max(config.gradient_accumulation_steps),
      vocabulary(vocabulary),
      document_fix("sequence_len allows " + std::to_string(document_max) + ": raise it, or cut the document") {}

void OwnLimits::keep_to(int64_t longest_document, int64_t tokens, int64_t micro_batches) {
  if (longest_document < document_max) {
    document_max = longest_document;
    document_fix = "the job's longest row has " + std::to_string(document_max) + ": cut the document";
  }
  if (tokens < tokens_max) {
    tokens_max = tokens;
    tokens_fix = "the job's longest micro-batch has " + std::to_string(tokens_max) + ": give fewer documents at once";
  }
  micro_batches_max = std::min(micro_batches_max, micro_batches);
}

std::unique_ptr<RunData> own_data(Config& config, OwnData data, int64_t vocabulary) {
  const OwnLimits limits(config, vocabulary);
  if (data.row) {
    if (data.rows <= 0) throw SetupError("the data has no rows", "give at least one");
    const BatchPlan steps(config, data.rows);
    if (config.saves_per_epoch > 0) config.save_steps = steps.every(config.saves_per_epoch);
    return std::make_unique<OwnRows>(std::move(data), steps, limits);
  }
  if (!config.max_steps)
    throw SetupError(config.file.string() + ": max_steps is missing, and batches of one's own have no epochs",
                     "add, for example: max_steps: 500");
  return std::make_unique<OwnBatches>(std::move(data), *config.max_steps, limits);
}

StepData read_own_step(const OwnSource& source, int64_t step, const OwnLimits& limits) {
  StepData data;
  for (int64_t index = 0; index < limits.micro_batches_max; ++index) {
    OwnBatch batch;
    if (!source(step, index, batch)) break;
    const std::string where = "step " + std::to_string(step + 1) + ", micro-batch " + std::to_string(index + 1);
    data.micro_batches.push_back(OwnBatchReader(batch, limits, where).read());
    data.supervised += data.micro_batches.back().supervised;
  }
  if (data.micro_batches.empty())
    throw SetupError("the data ends before step " + std::to_string(step + 1),
                     "give a micro-batch for every step, or lower max_steps");
  return data;
}

}  // namespace sluice::train
