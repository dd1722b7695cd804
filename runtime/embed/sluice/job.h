// What is to be trained, as a program says it: the keys of a job file, and data of the program's own where it has some.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace sluice {

// A micro-batch: documents laid end to end, never padded. N tokens.
struct Batch {
  std::vector<int32_t> token_ids;  // [N]
  // [N], not shifted: the token itself where it is to be learnt, or -100. Empty: every token is. A document's first
  // token predicts nothing and is predicted by nothing.
  std::vector<int32_t> labels;
  std::vector<int32_t> document_starts;  // ascending, the first 0. Empty: one document.
};

// Step and micro-batch count from 0. A resumed job asks for the steps that are left: the same question must get the
// same answer.
struct BatchRequest {
  int64_t step = 0;
  int64_t micro_batch = 0;
  // What the job allows: micro_batch_size, sequence_len, gradient_accumulation_steps.
  int64_t documents_max = 0;
  int64_t document_tokens_max = 0;
  int64_t micro_batches_max = 0;
};

// Fills an empty batch, or returns false: the step has no more micro-batches; each step has one at least, and
// gradient_accumulation_steps at most. On the thread that calls the Trainer. What it throws comes out of
// Trainer::step(), before anything has changed.
using DataSource = std::function<bool(const BatchRequest& request, Batch& batch)>;

// Fills an empty batch with one document: that of a row, counted from 0. Otherwise as DataSource.
using RowSource = std::function<void(int64_t row, Batch& document)>;

// Logits of R supervised tokens of a micro-batch of N. All spans end with the call, and are of the host's memory but
// for what `gpu` says.
struct LossChunk {
  int64_t step = 0;  // counted from 0; -1: of an evaluation
  int64_t micro_batch = 0;
  int64_t rows = 0, vocabulary = 0;    // R, V
  std::span<const int32_t> token_ids;  // [N]
  std::span<const int32_t> positions;  // [R], ascending: the token that predicts
  std::span<const int32_t> labels;     // [R]: what it must predict, the token after it
  std::span<float> logits;             // [R, V], row-major
  bool wants_gradient = false;         // logits are to become the gradient of what is returned, in place
  // Logits are in the memory of this CUDA device, to be read and written on `stream`, a cudaStream_t; it is LibTorch's
  // current one too. -1: in the host's.
  int gpu = -1;
  void* stream = nullptr;
};

// Where a job that computes on a GPU gives its logits to a loss: as a copy in the host's memory, which takes a copy
// each way and the host's time, or where they are. One that computes on the CPU (or `emulated`) has them in the host's.
enum class LossPlace { host, gpu };

// A loss in place of cross-entropy: its sum over the chunk's rows. Step::loss is the sum of all chunks over the step's
// supervised tokens, and gradients are of that; logits of all tokens never exist at once. A pure function of the chunk.
// Called inside Trainer::step() and evaluate(), on a thread of the runtime's. What it throws comes out of that call,
// and ends the training as a failed drive does: another Trainer goes on from the newest checkpoint. Memory that it
// takes, and a copy of logits, is not counted in offload.max_cpu or max_gpu, nor its time in the plan.
using Loss = std::function<double(const LossChunk& chunk)>;

struct Job {
  // Keys as in a job file: where it lies, or its text.
  std::filesystem::path file;
  std::string yaml;
  // "key=value", over those above: "max_steps=10", "offload.max_cpu=4GiB".
  std::vector<std::string> settings;

  // In place of the key `datasets`, one of two. Both empty: the job's own datasets.
  // By batch: the job then says max_steps, and a micro-batch has at most micro_batch_size documents of sequence_len
  // tokens each.
  DataSource data;
  // By row: `rows` documents of at most sequence_len tokens, which the job shuffles, batches and repeats as it does its
  // own datasets'.
  int64_t rows = 0;
  RowSource row;
  // What checkpoints remember them by: with another name they are not resumed.
  std::string data_name = "data";

  Loss loss;  // empty: cross-entropy
  // What checkpoints remember it by: with another name, or without one, they are not resumed.
  std::string loss_name = "loss";
  LossPlace loss_place = LossPlace::host;
};

// What a job would do here. Peaks are upper bounds that training keeps to.
struct Plan {
  int64_t steps = 0;  // that are left
  double step_seconds = 0;
  double bound_seconds = 0;  // no step is faster
  std::string binding_lane;  // that sets the bound: "compute", "read", ...
  double percent_of_bound = 0;
  double tokens_per_second = 0;
  double seconds = 0;  // of all steps
  int64_t device_peak_bytes = 0, host_peak_bytes = 0, disk_peak_bytes = 0;
  int64_t disk_read_bytes = 0, disk_write_bytes = 0;  // per step
  std::string text;                                   // what `sluice plan` prints: where bytes live and why
  std::string json;                                   // the same for programs
};

// Prepares the job's data when its cache has none, measures this machine where that was not done yet, writes nothing of
// the job itself. Throws JobError.
Plan plan_of(const Job& job);

}  // namespace sluice
