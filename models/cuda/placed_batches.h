// The numbers of a phase's micro-batches on the device: one copy for all of them.
#pragma once

#include <span>
#include <vector>

#include "models/cuda/index_kernels.h"
#include "models/program.h"

namespace sluice::models::cuda {

// One micro-batch; pointers are to device memory.
struct PlacedBatch {
  int64_t tokens = 0, longest_document = 0, supervised = 0;
  const int32_t *token_ids = nullptr, *positions = nullptr, *document_starts = nullptr;
  const int32_t *supervised_rows = nullptr, *supervised_labels = nullptr;
  SortedTokens sorted;
};

class PlacedBatches {
 public:
  PlacedBatches(int64_t tokens_max, int64_t micro_batches_max);
  ~PlacedBatches();
  PlacedBatches(const PlacedBatches&) = delete;
  PlacedBatches& operator=(const PlacedBatches&) = delete;

  static Bytes bytes(int64_t tokens_max, int64_t micro_batches_max);
  // Blocks until they are there. No op that reads those of before may be running.
  void place(std::span<const MicroBatch> batches);
  const PlacedBatch& of(const MicroBatch& batch) const;

 private:
  const int32_t* put(std::span<const int32_t> numbers);

  int64_t capacity_, used_ = 0;  // elements
  int32_t* staging_ = nullptr;   // pinned
  int32_t* device_ = nullptr;
  std::vector<PlacedBatch> placed_;
  std::vector<int32_t> scratch_[2];
};

}  // namespace sluice::models::cuda
