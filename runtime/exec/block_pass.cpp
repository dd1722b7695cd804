#include "runtime/exec/block_pass.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "swap/host_slab.h"

namespace sluice::exec {
namespace {

using models::BlockProgram;

// A line of /proc/self/status such as "VmHWM:   123 kB"; 0 when there is none.
int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size() + 1)) << 10;
  return 0;
}
// The kernel's high-water mark of this process starts anew.
void reset_high_water() { std::ofstream("/proc/self/clear_refs") << "5"; }

// Small numbers of both signs: denormals and infinities would cost another time.
void fill(std::span<std::byte> memory, Dtype dtype) {
  constexpr size_t kPeriod = 1 << 16;
  std::vector<uint16_t> words(kPeriod);
  uint32_t random = 1;
  for (size_t i = 0; i < kPeriod; ++i) {
    random = random * 1664525u + 1013904223u;
    // Sign, exponent of 2^-7 to 2^-6, seven bits of fraction: a bf16, and the high half of an fp32.
    const auto word = static_cast<uint16_t>((random >> 16 & 0x8000u) | 0x3c00u | (random >> 24 & 0x7fu));
    words[i] = dtype == Dtype::f32 && i % 2 == 0 ? uint16_t{0} : word;
  }
  const auto bytes = std::as_bytes(std::span(words));
  for (size_t at = 0; at < memory.size(); at += bytes.size())
    std::memcpy(memory.data() + at, bytes.data(), std::min(bytes.size(), memory.size() - at));
}

// One micro-batch of full documents, every token supervised.
class Batch {
 public:
  Batch(const models::Model& model, const PassSize& size) {
    for (int64_t i = 0; i < size.tokens; ++i) {
      token_ids_.push_back(static_cast<int32_t>(i % model.vocabulary));
      positions_.push_back(static_cast<int32_t>(i % size.document));
      if (i % size.document == 0) starts_.push_back(static_cast<int32_t>(i));
    }
    starts_.push_back(static_cast<int32_t>(size.tokens));
    view_.tokens = size.tokens;
    view_.token_ids = view_.labels = token_ids_;
    view_.positions = positions_;
    view_.document_starts = starts_;
    view_.loss_scale = 1.0 / static_cast<double>(size.tokens);
    view_.step = 1;
  }
  const models::MicroBatch& view() const { return view_; }

 private:
  std::vector<int32_t> token_ids_, positions_, starts_;
  models::MicroBatch view_;
};

// Everything that one block's program needs, at the size of the job.
class Bench {
 public:
  Bench(const models::Model& model, const BlockProgram& block, const PassSize& size, const models::MicroBatch& batch)
      : block_(block), batch_(batch), gradient_dtype_(size.gradient_dtype) {
    const Dtype dtype = model.compute_dtype;
    for (int g : block.groups()) {
      const models::ParameterGroup& group = model.groups[static_cast<size_t>(g)];
      parameters_.push_back(take(group.elements * size_of(dtype)));
      fill(slabs_.back()->memory(), dtype);
      gradients_.push_back(group.trainable ? take(group.elements * size_of(size.gradient_dtype)) : nullptr);
    }
    for (const models::SlotSpec& slot : block.slots())
      slots_.push_back(take(size.tokens * slot.elements_per_token * size_of(slot.dtype)));
    for (void*& boundary : boundaries_) boundary = take(size.tokens * model.hidden * size_of(dtype));
    fill({static_cast<std::byte*>(boundaries_[0]), static_cast<size_t>(size.tokens * model.hidden * size_of(dtype))},
         dtype);
    const std::vector<uint8_t> none(slots_.size(), 0), all(slots_.size(), 1);
    Bytes workspace = block.workspace_bytes(models::Pass::forward, size.tokens, all);
    for (const auto* kept : {&none, &all})
      workspace = std::max(workspace, block.workspace_bytes(models::Pass::backward, size.tokens, *kept));
    workspace_ = {static_cast<std::byte*>(take(workspace.count)), static_cast<size_t>(workspace.count)};
  }

  void forward() const { block_.forward({&batch_, boundaries_[0], boundaries_[1], parameters_, slots_, workspace_}); }
  void backward(bool keeps_slots) const {
    const std::vector<const void*> kept(slots_.begin(), slots_.end()), none(slots_.size(), nullptr);
    block_.backward(arguments(gradients_, boundaries_[2], keeps_slots ? kept : none));
  }
  void loss(bool wants_gradients) const {
    const std::vector<void*> nothing(gradients_.size(), nullptr);
    const std::vector<const void*> no_slots;
    static_cast<const models::HeadProgram&>(block_).loss(
        arguments(wants_gradients ? gradients_ : nothing, wants_gradients ? boundaries_[2] : nullptr, no_slots));
  }

 private:
  void* take(int64_t bytes) {
    slabs_.push_back(std::make_unique<swap::HostSlab>(Bytes{std::max<int64_t>(bytes, 64)}));
    return slabs_.back()->memory().data();
  }
  models::BackwardArgs arguments(std::span<void* const> gradients, void* input_gradient,
                                 std::span<const void* const> slots) const {
    return {&batch_,   boundaries_[0], boundaries_[1],  input_gradient, parameters_,
            gradients, accumulate_,    gradient_dtype_, slots,          workspace_};
  }

  const BlockProgram& block_;
  const models::MicroBatch& batch_;
  Dtype gradient_dtype_;
  std::vector<std::unique_ptr<swap::HostSlab>> slabs_;
  std::vector<const void*> parameters_;
  std::vector<void*> gradients_, slots_;
  std::array<void*, 3> boundaries_{};  // input, output or its gradient, gradient of the input
  std::vector<uint8_t> accumulate_ = std::vector<uint8_t>(8, 0);
  std::span<std::byte> workspace_;
};

// The fastest of several runs: what disturbs a run only makes it longer. The first one also makes caches.
template <class Body>
Microseconds fastest(const Body& body) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRuns = 4;
  Microseconds best{1e18};
  for (int run = 0; run < kRuns; ++run) {
    const auto begin = Clock::now();
    body();
    best = std::min(best, Microseconds{std::chrono::duration<double, std::micro>(Clock::now() - begin).count()});
  }
  return best;
}

BlockPass measure(const models::Model& model, const BlockProgram& block, const Bench& bench) {
  BlockPass pass;
  if (&block == &model.head()) {
    pass.forward = fastest([&] { bench.loss(false); });
    pass.backward = pass.backward_recomputing = fastest([&] { bench.loss(true); });
    return pass;
  }
  pass.forward = fastest([&] { bench.forward(); });
  pass.backward = pass.backward_recomputing = fastest([&] { bench.backward(true); });
  if (!block.slots().empty()) pass.backward_recomputing = fastest([&] { bench.backward(false); });
  return pass;
}

// Blocks with the same key do the same work.
std::string kind_of(const models::Model& model, const BlockProgram& block) {
  const models::BlockCost cost = block.cost();
  std::string key = std::to_string(cost.forward_flops_per_token) + ' ' + std::to_string(cost.backward_flops_per_token) +
                    ' ' + std::to_string(cost.attention_flops_per_token_per_position);
  for (int g : block.groups()) {
    const models::ParameterGroup& group = model.groups[static_cast<size_t>(g)];
    key += ' ' + std::to_string(group.elements) + (group.trainable ? 't' : 'f');
  }
  return key + (&block == &model.head() ? " head" : "");
}

}  // namespace

std::function<void()> layer_load(const models::Model& model, const PassSize& size) {
  struct Load {
    Load(const models::Model& model, const PassSize& size)
        : batch(model, size), bench(model, *model.blocks[model.blocks.size() / 2], size, batch.view()) {}
    Batch batch;
    Bench bench;
  };
  // std::function must be copyable.
  return [load = std::make_shared<Load>(model, size)] {
    load->bench.forward();
    load->bench.backward(true);
  };
}

BlockPasses measure_block_passes(const models::Model& model, const PassSize& size) {
  const Batch batch(model, size);
  std::map<std::string, BlockPass> measured;
  BlockPasses passes;
  for (const auto& block : model.blocks) {
    const auto [place, fresh] = measured.try_emplace(kind_of(model, *block));
    if (fresh) {
      const Bench bench(model, *block, size, batch.view());
      reset_high_water();
      const int64_t before = status_bytes("VmRSS:");
      place->second = measure(model, *block, bench);
      passes.transient = std::max(passes.transient, Bytes{status_bytes("VmHWM:") - before});
    }
    passes.blocks.push_back(place->second);
  }
  return passes;
}

}  // namespace sluice::exec
