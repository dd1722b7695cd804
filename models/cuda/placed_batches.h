// The numbers of a phase's micro-batches on the device: one copy for all of them.
#pragma once

#include <span>
#include <vector>

#include "models/cuda/index_kernels.h"
#include "models/ops/ops.h"
#include "runtime/core/cuda_memory.h"

namespace sluice::models::cuda {

// One micro-batch; pointers are to device memory, or say otherwise.
struct PlacedBatch {
  int64_t tokens = 0, longest_document = 0;
  const int32_t *token_ids = nullptr, *positions = nullptr, *document_starts = nullptr;
  SupervisedTokens supervised;
  SortedTokens sorted;
};

class PlacedBatches {
 public:
  PlacedBatches(int64_t tokens_max, int64_t micro_batches_max);

  static Bytes bytes(int64_t tokens_max, int64_t micro_batches_max);
  // Blocks until they are there. No op that reads those of before may be running.
  void place(std::span<const MicroBatch> batches);
  const PlacedBatch& of(const MicroBatch& batch) const;

 private:
  const int32_t* put(std::span<const int32_t> numbers);
  // What was put there, as the host has it.
  const int32_t* on_host(const int32_t* put) const;
  void put_supervised(const MicroBatch& batch, PlacedBatch& placed);
  void put_sorted(const MicroBatch& batch, PlacedBatch& placed);

  int64_t capacity_, used_ = 0;  // elements
  CudaMemory staging_, device_;
  std::vector<PlacedBatch> placed_;
};

}  // namespace sluice::models::cuda
