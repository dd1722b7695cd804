// What the executor knows of a model: a list of blocks, each a program with a hand-written backward, the
// slots that its backward wants, the parameters that it uses, and what it costs. No schedules here.
//
// Shapes: N tokens of a micro-batch (rows are laid end to end, never padded: N differs between
// micro-batches), C hidden size, V vocabulary. Every activation is [N, ...], row-major, contiguous.
// Dtypes: `compute_dtype` (f32, bf16 or f16) for weights, activations and activation gradients unless said.
// Threads: a call runs on the caller's thread and LibTorch's intra-op pool; one call at a time.
// Determinism: the same arguments give the same bits, whatever was kept or recomputed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/parameter_group.h"
#include "runtime/core/dtype.h"
#include "runtime/core/units.h"

namespace sluice::models {

// Written by a block's forward, read by its backward. Bytes of N tokens: N * elements_per_token * size_of(dtype).
struct SlotSpec {
  std::string name;  // "attention_output", "mlp_gate_up", ...
  Dtype dtype = Dtype::bf16;
  int64_t elements_per_token = 0;
  double recompute_flops_per_token = 0;     // given that all earlier slots and the block's input are there
  double recompute_elements_per_token = 0;  // that row kernels read and write for it, beside its products
};

struct MicroBatch;

// Logits of R supervised tokens of a micro-batch. Lists are in the host's memory.
struct LossChunk {
  const MicroBatch* batch = nullptr;
  std::span<const int32_t> positions;  // [R], ascending: of the micro-batch's tokens, the one that predicts
  std::span<const int32_t> labels;     // [R]: what it must predict
  int64_t vocabulary = 0;              // V
  float* logits = nullptr;             // [R, V]
  bool wants_gradient = false;         // logits are to become the gradient of what is returned
  // The GPU whose memory logits are in, to be read and written on its `stream`, a cudaStream_t; -1: the host's.
  int gpu = -1;
  void* stream = nullptr;

  int64_t rows() const { return static_cast<int64_t>(positions.size()); }
};

// In place of cross-entropy: a loss of whoever embeds the runtime.
class LossFunction {
 public:
  virtual ~LossFunction() = default;
  // The sum over the chunk's rows. A pure function of the chunk: a step may ask twice. On the compute lane's thread.
  // Throws RunError.
  virtual double sum(const LossChunk& chunk) = 0;
  // Whether logits that a GPU computes are given where they are, in place of a copy in the host's memory.
  virtual bool on_gpu() const { return false; }
};

// The tokens that one block sees at once: documents laid end to end, attention only inside a document.
struct MicroBatch {
  int64_t tokens = 0;                        // N
  std::span<const int32_t> token_ids;        // [N]
  std::span<const int32_t> labels;           // [N], already shifted: the token that position i must predict, or -100
  std::span<const int32_t> positions;        // [N], restart at every document
  std::span<const int32_t> document_starts;  // [documents + 1], ascending, first 0, last N
  double loss_scale = 1;                     // 1 / supervised tokens of the whole step
  // Key of the counter-based dropout generator. step counts from 1; 0: not training, nothing is dropped.
  uint64_t seed = 0;
  uint64_t step = 0;
  uint64_t index = 0;            // of this micro-batch in the step
  LossFunction* loss = nullptr;  // null: cross-entropy. Of a model that was built with room for it.
};

enum class Pass { forward, backward };

// What an op leaves for the host to read once it has ended.
struct OpReport {
  double loss_sum = 0;      // of the head: over supervised tokens, of -log p(label) or a loss of one's own, not scaled
  uint32_t not_finite = 0;  // not zero: an element was not
};

// What programs share with who runs them. The base class serves the host: an op has ended when its call returns. On a
// GPU calls only enqueue, on the stream of the calling thread.
class ProgramContext {
 public:
  virtual ~ProgramContext() = default;
  // Makes the numbers of micro-batches reachable for kernels, until the next call. No op may be running. A micro-batch
  // given to a program is one of these, known by its `index`, which is its place in the list.
  virtual void place(std::span<const MicroBatch>) {}
  // Reports that ops may write and the host may read, all zero, until the next call. No op may be running.
  virtual std::span<OpReport> reports(size_t count);
  // Marks the report when an element is infinite or no number.
  virtual void check_finite(const void* elements, int64_t count, Dtype dtype, OpReport& report) const;

 private:
  std::vector<OpReport> reports_;
};

struct ForwardArgs {
  const MicroBatch* batch = nullptr;
  const void* input = nullptr;              // [N, C]; null for the embedding
  void* output = nullptr;                   // [N, C]; null for the head
  std::span<const void* const> parameters;  // one per BlockProgram::groups(), compute_dtype, flat, 64-byte aligned
  std::span<void* const> slots;             // one per slots(); null: not kept
  std::span<std::byte> workspace;           // 64-byte aligned, at least workspace_bytes(forward)
};

struct BackwardArgs {
  const MicroBatch* batch = nullptr;
  const void* input = nullptr;            // as given to forward
  const void* output_gradient = nullptr;  // [N, C]; null for the head
  void* input_gradient = nullptr;         // [N, C]; null: not wanted. May alias output_gradient.
  std::span<const void* const> parameters;
  // One per groups(): null when frozen. gradient_dtype f32, or that of compute when the step has one micro-batch.
  // Written whole (gaps and all) when `accumulate[g]` is false, added to when true.
  std::span<void* const> gradients;
  std::span<const uint8_t> accumulate;
  Dtype gradient_dtype = Dtype::f32;
  std::span<const void* const> slots;  // one per slots(); null: recompute it
  std::span<std::byte> workspace;
};

// A product of the forward, y [N, out] = x [N, in] w^T, and what backward makes of it: dx and dw.
struct LinearCost {
  int64_t in = 0, out = 0;
  bool weight_gradient = true;
  int forwards_in_backward = 0;    // whatever slots are kept
  int slot = -1;                   // of slots(): recomputing that one runs it; -1: backward never needs it
  int64_t tokens_max = 0;          // at once; 0: all of the micro-batch
  double expanded_bytes = 0;       // of a matrix in low bits: read and written before each product with it
  bool in_backward_alone = false;  // its forwards_in_backward are all there is of it
};

// What a pass does once, however many tokens it has.
struct FixedCost {
  struct Product {
    int64_t m = 0, n = 0, k = 0;  // [m, k] x [k, n]
    double count = 1;
  };
  std::vector<Product> products;
  double bytes = 0;  // that row kernels read and write
  double flops() const;
};

// What predicts a pass's time on a machine that is not there: products by shape, attention, bytes of the rest.
struct BlockCost {
  double forward_flops_per_token = 0;
  double backward_flops_per_token = 0;                // without recomputation
  double attention_flops_per_token_per_position = 0;  // forward; times mean attended length; backward 2.5 times that
  std::vector<LinearCost> linears;
  int64_t heads = 0, head_dim = 0;  // of attention; 0: none
  int attention_slot = -1;          // its recomputation runs attention
  // That row kernels read and write. Of the head, backward has loss and gradients, forward the loss alone.
  double forward_elements_per_token = 0, backward_elements_per_token = 0;
  int64_t gradient_elements = 0;  // weight gradients that backward stores
  FixedCost each_pass;            // forward and backward alike
};

// A block that streams. Implementations are immutable after construction.
class BlockProgram {
 public:
  virtual ~BlockProgram() = default;

  virtual const std::string& name() const = 0;          // "embedding", "layer.0", "head"
  virtual std::span<const int> groups() const = 0;      // indices into Model::groups
  virtual std::span<const SlotSpec> slots() const = 0;  // in the order in which forward writes them
  virtual BlockCost cost() const = 0;
  // Bytes of workspace for at most `tokens_max` tokens when the slots with kept[i] != 0 are there.
  virtual Bytes workspace_bytes(Pass pass, int64_t tokens_max, std::span<const uint8_t> kept) const = 0;

  virtual void forward(const ForwardArgs& args) const = 0;
  virtual void backward(const BackwardArgs& args) const = 0;
};

// The head owns the final norm and the output projection. It computes loss and gradients together,
// in chunks: full logits never exist.
class HeadProgram : public BlockProgram {
 public:
  // Sets report.loss_sum. BackwardArgs as above (output_gradient null); gradients are of loss_scale * sum. With no
  // gradients and no input_gradient: loss only.
  virtual void loss(const BackwardArgs& args, OpReport& report) const = 0;
  // logits_RV: [rows, V] fp32 for the given rows of input [N, C].
  virtual void logits(const void* input, std::span<const int32_t> rows, std::span<const void* const> parameters,
                      float* logits_RV, std::span<std::byte> workspace) const = 0;
  virtual int64_t vocabulary() const = 0;
};

// Generation, in host memory: one layer, one sequence, keys and values of earlier positions cached.
class LayerProgram : public BlockProgram {
 public:
  virtual Bytes cache_bytes(int64_t positions_max) const = 0;
  // As forward for N new tokens whose positions start at `past`; appends to `cache` (caller-owned, cache_bytes).
  virtual void forward_cached(const ForwardArgs& args, std::span<std::byte> cache, int64_t past,
                              int64_t positions_max) const = 0;
};

struct Model {
  std::unique_ptr<ProgramContext> context = std::make_unique<ProgramContext>();  // programs refer to it
  std::vector<ParameterGroup> groups;
  std::vector<std::unique_ptr<BlockProgram>> blocks;  // embedding, layers, head (a HeadProgram)
  Dtype compute_dtype = Dtype::f32;
  int64_t hidden = 0;  // C
  int64_t vocabulary = 0;
  int64_t positions_max = 0;

  const HeadProgram& head() const { return static_cast<const HeadProgram&>(*blocks.back()); }
};

}  // namespace sluice::models
