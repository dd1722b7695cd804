// A GPT-3-like dense decoder as numbers: what its blocks weigh and cost on a machine, from its sizes alone.
//
// A layer has 12 hidden^2 parameters (qkv, attention output, an MLP of four times the width) and its biases and norms;
// the head shares the embedding's matrix. Blocks work through a micro-batch a few sequences at a time, so that what
// they need beside their slots does not grow with it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "runtime/plan/job_shape.h"
#include "runtime/plan/machine.h"

namespace sluice::literature {

struct DenseModel {
  std::string name;
  int64_t layers = 0, hidden = 0, heads = 0;
  int64_t vocabulary = 50257;

  int64_t layer_parameters() const { return 12 * hidden * hidden + 13 * hidden; }
  int64_t parameters() const { return layers * layer_parameters() + vocabulary * hidden + 2 * hidden; }
};

// 13B, 30B, 65B, 100B, 175B.
std::span<const DenseModel> dense_models();
const DenseModel& dense_model(const std::string& name);

// Ours: the bf16 weight is the master's upper half, so 10 bytes of state. Peers: fp32 p, m, v beside a bf16 copy.
enum class StateFormat : uint8_t { split_master, separate_master, split_master_bf16, split_master_int8 };

// What backward runs again when nothing is kept. Checkpointing in PyTorch runs the whole layer, its last product too,
// which backward itself does not need: there it is one more slot that can be kept.
enum class Recomputation : uint8_t { needed, whole_layer };

struct DenseJob {
  DenseModel model;
  int64_t sequence = 1024;
  int64_t rows = 1;  // sequences of a micro-batch
  int micro_batches = 1;
  StateFormat states = StateFormat::split_master;
  Recomputation recomputation = Recomputation::needed;

  int64_t step_tokens() const { return sequence * rows * micro_batches; }
};

plan::JobShape dense_shape(const DenseJob& job, const plan::Machine& machine);

}  // namespace sluice::literature
