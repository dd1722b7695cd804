#include "models/head_program.h"

#include <algorithm>

#include "models/decoder_groups.h"
#include "models/ops/gradient_writer.h"

namespace sluice::models {
namespace {

// Rows of the vocabulary whose weight gradient passes through the temporary at once.
constexpr int64_t kVocabularyRows = 8192;
// Of logits that a loss of one's own sees at once, which may want several times that for itself.
constexpr Bytes kOwnLossTile = MiB(128);
// Of the block's groups.
constexpr size_t kProjection = 0, kNorm = 1;

struct Pieces {
  int32_t* rows;    // supervised positions
  int32_t* labels;  // their labels
  double* losses;   // one per row of a chunk
  void *gathered, *normed, *logits, *normed_gradient, *product;
  float* runs;
  float* own_logits;  // of a loss of one's own
};

class Head final : public HeadProgram {
 public:
  explicit Head(const HeadSetup& setup)
      : spec_(setup.spec),
        dtype_(setup.compute_dtype),
        ops_(*setup.ops),
        k_(ops_.kernels(setup.compute_dtype)),
        own_loss_(setup.own_loss),
        groups_(setup.groups) {
    for (const ParameterGroup* layout : setup.layouts) layouts_.push_back(*layout);
    projection_ = offset_of(layouts_[kProjection], spec_.tied_head ? "model.embed_tokens.weight" : "lm_head.weight");
    norm_ = offset_of(layouts_[kNorm], "model.norm.weight");
    const double gemm = 2.0 * static_cast<double>(spec_.hidden) * static_cast<double>(spec_.vocabulary);
    const auto c = static_cast<double>(spec_.hidden), v = static_cast<double>(spec_.vocabulary);
    cost_.forward_flops_per_token = gemm;
    cost_.backward_flops_per_token = layouts_[kProjection].trainable ? 2 * gemm : gemm;
    cost_.linears = {{spec_.hidden, spec_.vocabulary, layouts_[kProjection].trainable, 1, -1, chunk_rows()}};
    // Rows gathered and normed, logits read twice; then also written, and gradients normed and scattered.
    cost_.forward_elements_per_token = 4 * c + 2 * v;
    cost_.backward_elements_per_token = (4 + 4 + 2) * c + 3 * v;
    cost_.gradient_elements = layouts_[kProjection].trainable ? spec_.hidden * spec_.vocabulary : 0;
  }

  const std::string& name() const override { return name_; }
  std::span<const int> groups() const override { return groups_; }
  std::span<const SlotSpec> slots() const override { return {}; }
  BlockCost cost() const override { return cost_; }
  int64_t vocabulary() const override { return spec_.vocabulary; }

  Bytes workspace_bytes(Pass, int64_t tokens_max, std::span<const uint8_t>) const override {
    Scratch measure;
    cut(measure, tokens_max);
    return measure.used();
  }

  void forward(const ForwardArgs&) const override { SLUICE_CHECK(false, "the head computes a loss: call loss()"); }
  void backward(const BackwardArgs&) const override { SLUICE_CHECK(false, "the head computes a loss: call loss()"); }

  void loss(const BackwardArgs& args, OpReport& report) const override {
    const MicroBatch& batch = *args.batch;
    Scratch scratch(args.workspace);
    const Pieces p = cut(scratch, batch.tokens);
    const SupervisedTokens supervised = ops_.supervised(batch, p.rows, p.labels);
    if (args.input_gradient != nullptr) ops_.clear(args.input_gradient, batch.tokens * spec_.hidden * size_of(dtype_));
    // At least one round, so that loss and gradients are written even when nothing is supervised.
    int64_t begin = 0;
    do {
      const int64_t count = std::min(chunk_rows(), supervised.count - begin);
      add_chunk(args, p, supervised.part(begin, count), begin == 0 ? Store::overwrite : Store::accumulate, report);
      begin += chunk_rows();
    } while (begin < supervised.count);
  }

  void logits(const void* input, std::span<const int32_t> rows, std::span<const void* const> parameters,
              float* logits_RV, std::span<std::byte> workspace) const override {
    const auto count = static_cast<int64_t>(rows.size());
    SLUICE_CHECK(count <= chunk_rows(), "more rows of logits than a chunk holds");
    Scratch scratch(workspace);
    const Pieces p = cut(scratch, count);
    project(input, rows.data(), count, parameters, p);
    k_.store_gradient(p.logits, logits_RV, Dtype::f32, Store::overwrite, count * spec_.vocabulary);
  }

 private:
  static int64_t offset_of(const ParameterGroup& group, const char* name) {
    const ParameterTensor* tensor = find_tensor(group, name);
    SLUICE_CHECK(tensor != nullptr, std::string("group ") + group.name + " lacks " + name);
    return tensor->offset;
  }
  int64_t chunk_rows() const {
    const Bytes tile = own_loss_ ? std::min(ops_.logits_tile(), kOwnLossTile) : ops_.logits_tile();
    return std::max<int64_t>(64, round_down(tile.count / (spec_.vocabulary * size_of(dtype_)), 64));
  }
  const void* weight(std::span<const void* const> parameters, size_t group, int64_t offset) const {
    return static_cast<const std::byte*>(parameters[group]) + offset * size_of(dtype_);
  }

  Pieces cut(Scratch& s, int64_t tokens_max) const {
    const int64_t rows = std::min(tokens_max, chunk_rows()), c = spec_.hidden;
    Pieces p{};
    p.rows = s.take_as<int32_t>(Dtype::i32, tokens_max);
    p.labels = s.take_as<int32_t>(Dtype::i32, tokens_max);
    p.losses = s.take_as<double>(Dtype::f32, 2 * rows);
    p.gathered = s.take(dtype_, rows * c);
    p.normed = s.take(dtype_, rows * c);
    p.logits = s.take(dtype_, rows * spec_.vocabulary);
    p.normed_gradient = s.take(dtype_, rows * c);
    p.runs = s.take_as<float>(Dtype::f32, runs_of(rows) * c);
    if (own_loss_) p.own_logits = s.take_as<float>(Dtype::f32, rows * spec_.vocabulary);
    if (layouts_[kProjection].trainable) p.product = s.take(dtype_, std::min(kVocabularyRows, spec_.vocabulary) * c);
    return p;
  }

  void project(const void* input, const int32_t* rows, int64_t count, std::span<const void* const> parameters,
               const Pieces& p) const {
    const int64_t c = spec_.hidden;
    k_.gather_rows(input, rows, p.gathered, count, c);
    k_.rms_norm(p.gathered, nullptr, weight(parameters, kNorm, norm_), p.normed, count, c,
                static_cast<float>(spec_.norm_epsilon));
    ops_.multiply_by_transposed(dtype_, {p.normed, count, c},
                                {weight(parameters, kProjection, projection_), spec_.vocabulary, c}, {p.logits});
  }

  // A chunk: supervised tokens whose logits exist at the same time.
  void add_chunk(const BackwardArgs& args, const Pieces& p, const SupervisedTokens& chunk, Store store,
                 OpReport& report) const {
    const bool wants_gradient =
        args.input_gradient != nullptr ||
        std::any_of(args.gradients.begin(), args.gradients.end(), [](const void* g) { return g != nullptr; });
    const int64_t v = spec_.vocabulary, c = spec_.hidden, count = chunk.count;
    if (count > 0) project(args.input, chunk.rows, count, args.parameters, p);
    if (args.batch->loss != nullptr)
      add_own_loss(*args.batch, p, chunk, wants_gradient, store, report);
    else
      add_cross_entropy(*args.batch, p, chunk, wants_gradient, store, report);
    if (!wants_gradient) return;
    if (count > 0) {
      ops_.multiply(dtype_, {p.logits, count, v}, {weight(args.parameters, kProjection, projection_), v, c},
                    {p.normed_gradient});
      k_.rms_norm_backward(p.gathered, weight(args.parameters, kNorm, norm_), p.normed_gradient, nullptr,
                           p.normed_gradient, p.runs, count, c, static_cast<float>(spec_.norm_epsilon));
    }
    write_weight_gradients(args, p, count, store);
    if (count > 0 && args.input_gradient != nullptr)
      k_.scatter_rows(p.normed_gradient, chunk.rows, args.input_gradient, count, c);
  }

  // Both make gradients of the logits.
  void add_cross_entropy(const MicroBatch& batch, const Pieces& p, const SupervisedTokens& chunk, bool wants_gradient,
                         Store store, OpReport& report) const {
    if (chunk.count > 0)
      k_.cross_entropy(p.logits, chunk.labels, p.losses, static_cast<float>(batch.loss_scale), wants_gradient,
                       chunk.count, spec_.vocabulary);
    ops_.sum_losses(p.losses, chunk.count, store, report.loss_sum);
  }
  void add_own_loss(const MicroBatch& batch, const Pieces& p, const SupervisedTokens& chunk, bool wants_gradient,
                    Store store, OpReport& report) const {
    SLUICE_CHECK(own_loss_, "no room for a loss of one's own");
    if (store == Store::overwrite) report.loss_sum = 0;
    if (chunk.count == 0) return;
    const int64_t elements = chunk.count * spec_.vocabulary;
    k_.store_gradient(p.logits, p.own_logits, Dtype::f32, Store::overwrite, elements);
    const auto rows = static_cast<size_t>(chunk.count);
    report.loss_sum +=
        ops_.sum_of(*batch.loss, {&batch, std::span(chunk.host_rows, rows), std::span(chunk.host_labels, rows),
                                  spec_.vocabulary, p.own_logits, wants_gradient});
    if (!wants_gradient) return;
    const Kernels& exact = ops_.kernels(Dtype::f32);
    exact.scale(p.own_logits, static_cast<float>(batch.loss_scale), elements);
    exact.store_gradient(p.own_logits, p.logits, dtype_, Store::overwrite, elements);
  }

  // The first chunk of the first block to add writes; all others add.
  void write_weight_gradients(const BackwardArgs& args, const Pieces& p, int64_t count, Store store) const {
    const int64_t v = spec_.vocabulary, c = spec_.hidden;
    const auto writer = [&](size_t group) {
      GradientTarget target = target_of(args, group);
      if (store == Store::accumulate) target.store = store;
      return GradientWriter(ops_, layouts_[group], target, dtype_, p.product);
    };
    GradientWriter projection = writer(kProjection);
    if (count == 0 && projection.wanted() && args.accumulate[kProjection] == 0)
      ops_.clear(args.gradients[kProjection], layouts_[kProjection].elements * size_of(args.gradient_dtype));
    if (count > 0)
      for (int64_t row = 0; row < v; row += kVocabularyRows) {
        const int64_t rows = std::min(kVocabularyRows, v - row);
        const void* columns = static_cast<const std::byte*>(p.logits) + row * size_of(dtype_);
        projection.product({columns, count, rows, v}, {p.normed, count, c}, projection_ + row * c);
      }
    writer(kNorm).runs(p.runs, runs_of(count), c, norm_);
  }

  const std::string name_ = "head";
  DecoderSpec spec_;
  Dtype dtype_;
  const Ops& ops_;
  const Kernels& k_;
  bool own_loss_;
  std::vector<int> groups_;
  std::vector<ParameterGroup> layouts_;
  int64_t projection_ = 0, norm_ = 0;
  BlockCost cost_;
};

}  // namespace

std::unique_ptr<HeadProgram> make_head_program(const HeadSetup& setup) { return std::make_unique<Head>(setup); }

}  // namespace sluice::models
