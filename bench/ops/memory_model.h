// A decoder with random weights whose blocks run forward and backward in memory: no planner, no executor, no disk.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "models/decoder.h"

namespace sluice::bench {

// The shape of SmolLM2-135M.
models::DecoderSpec smollm2_135m();

// 64-byte aligned, its pages touched.
class AlignedMemory {
 public:
  explicit AlignedMemory(int64_t bytes);
  std::byte* at() const { return at_.get(); }
  std::span<std::byte> span() const { return {at_.get(), static_cast<size_t>(bytes_)}; }

 private:
  struct Free {
    void operator()(std::byte* at) const;
  };
  int64_t bytes_;
  std::unique_ptr<std::byte, Free> at_;
};

enum class Keep { all_slots, no_slots };

class MemoryModel {
 public:
  // `documents` of `document_tokens` each make the one micro-batch; every token is supervised.
  MemoryModel(const models::DecoderSpec& spec, const std::optional<models::AdapterSpec>& adapter, Dtype compute_dtype,
              int64_t documents, int64_t document_tokens, Keep keep);

  // Forward and backward of all blocks. The mean loss.
  double run();
  // Of one run, without recomputation.
  double flops() const;
  int64_t tokens() const { return batch_.tokens; }
  int64_t workspace_bytes() const;

 private:
  void forward(size_t block);
  double backward(size_t block);
  std::vector<const void*> parameters(size_t block) const;

  models::Model model_;
  Keep keep_;
  std::vector<int32_t> ids_, labels_, positions_, starts_;
  models::MicroBatch batch_;
  std::vector<AlignedMemory> weights_, gradients_, boundaries_;
  std::vector<std::vector<AlignedMemory>> slots_;  // by block
  std::unique_ptr<AlignedMemory> gradient_, workspace_;
};

}  // namespace sluice::bench
