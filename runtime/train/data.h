// Token files (runtime/text/TOKEN_FILE.md), mapped into memory, and which of their rows each step sees.
// The position in the data is a pure function of the step number: resuming needs nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/train/config.h"

namespace sluice::train {

inline constexpr int32_t kMaskedLabel = -100;

// Documents laid end to end without padding; N tokens.
struct MicroBatchData {
  std::vector<int32_t> token_ids;        // [N]
  std::vector<int32_t> labels;           // [N], shifted inside each document: what position i must predict, or -100
  std::vector<int32_t> positions;        // [N], restart at every document
  std::vector<int32_t> document_starts;  // [documents + 1], first 0, last N
  int64_t supervised = 0;                // labels that are not -100
};

struct StepData {
  std::vector<MicroBatchData> micro_batches;
  int64_t supervised = 0;  // of all micro-batches: the loss is divided by it
};

// Read-only and thread-safe after construction.
class TokenDataset {
 public:
  // Throws SetupError naming file and offset: not a token file, not finished, tables that contradict one another.
  explicit TokenDataset(const std::filesystem::path& file);
  ~TokenDataset();
  TokenDataset(const TokenDataset&) = delete;
  TokenDataset& operator=(const TokenDataset&) = delete;

  int64_t rows() const { return rows_; }
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  int64_t vocabulary() const { return vocabulary_; }
  int64_t supervised_tokens() const { return supervised_tokens_; }  // before shifting
  int64_t longest_row() const { return longest_row_; }
  int64_t longest_document() const { return longest_document_; }
  const std::string& content_hash() const { return content_hash_; }  // 64 hex digits
  const std::filesystem::path& file() const { return file_; }

  int64_t row_tokens(int64_t row) const { return begin_of(row + 1) - begin_of(row); }
  // Tokens of the `count` longest rows: no micro-batch of so many rows holds more.
  int64_t tokens_max(int64_t count) const;

  // Throws RunError naming file and offset when an id is not below the vocabulary or a label is not what it may be:
  // the tokens themselves are read only when a step needs them.
  MicroBatchData read(std::span<const int64_t> rows) const;

 private:
  struct Mapping {
    const std::byte* data = nullptr;
    int64_t bytes = 0;
  };
  int64_t begin_of(int64_t row) const { return static_cast<int64_t>(row_starts_[row]); }
  void read_header();
  void check_tables();
  void append_document(int64_t begin, int64_t end, MicroBatchData& batch) const;
  [[noreturn]] void refuse(int64_t offset, const std::string& what) const;

  std::filesystem::path file_;
  Mapping mapping_;
  int64_t rows_ = 0, tokens_ = 0, documents_ = 0, vocabulary_ = 0, supervised_tokens_ = 0;
  int64_t longest_row_ = 0, longest_document_ = 0;
  std::string content_hash_;
  const uint64_t* row_starts_ = nullptr;       // [rows + 1], in tokens
  const uint64_t* document_starts_ = nullptr;  // [documents + 1], in tokens
  const int32_t* token_ids_ = nullptr;         // [tokens]
  const int32_t* labels_ = nullptr;            // [tokens], not shifted
};

enum class RowOrder { shuffled, sequential };

// A permutation of the rows for each epoch, computed per element: nothing is stored, whatever the number of rows.
class EpochOrder {
 public:
  EpochOrder(int64_t rows, uint64_t seed, RowOrder order) : rows_(rows), seed_(seed), order_(order) {}
  // The row that comes at `position` of `epoch`.
  int64_t at(int64_t epoch, int64_t position) const;

 private:
  int64_t rows_;
  uint64_t seed_;
  RowOrder order_;
};

struct BatchPlanOptions {
  int64_t rows = 0;
  int64_t micro_batch_size = 1;             // rows
  int64_t gradient_accumulation_steps = 1;  // micro-batches
  double epochs = 1;
  std::optional<int64_t> max_steps = {};  // wins over epochs; goes on into further epochs
  uint64_t seed = 0;
  RowOrder order = RowOrder::shuffled;
};

// Steps to rows, as the Hugging Face trainer does it: an epoch ends with a smaller micro-batch and a step of fewer
// micro-batches when the numbers do not divide.
class BatchPlan {
 public:
  BatchPlan() : BatchPlan(BatchPlanOptions{.rows = 1}) {}
  explicit BatchPlan(const BatchPlanOptions& options);
  BatchPlan(const Config& config, int64_t rows);

  int64_t steps_total() const { return steps_total_; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t micro_batches_per_epoch() const { return micro_batches_per_epoch_; }
  // Steps from one time to the next when there are `times_per_epoch` of them; at least 1.
  int64_t every(int64_t times_per_epoch) const;
  // The most micro-batches that any step has.
  int64_t micro_batches_max() const;
  // Of step `step`, counted from 0: a list of rows for each micro-batch.
  std::vector<std::vector<int64_t>> rows_of(int64_t step) const;
  StepData training(const TokenDataset& dataset, int64_t step) const;

  // Validation rows in file order, `micro_batches` micro-batches at a time.
  int64_t validation_batches(const TokenDataset& dataset, int64_t micro_batches) const;
  StepData validation(const TokenDataset& dataset, int64_t batch, int64_t micro_batches) const;

 private:
  BatchPlanOptions options_;
  EpochOrder order_;
  int64_t micro_batches_per_epoch_ = 0;
  int64_t steps_per_epoch_ = 0;
  int64_t steps_total_ = 0;
};

}  // namespace sluice::train
