#include "runtime/exec/block_pass.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "swap/host_slab.h"

namespace sluice::exec {
namespace {

using models::BlockProgram;

// Small numbers of both signs: denormals and infinities would cost another time.
void fill(PassPlace& place, std::span<std::byte> memory, Dtype dtype) {
  constexpr size_t kPeriod = 1 << 16;
  std::vector<uint16_t> words(kPeriod);
  uint32_t random = 1;
  for (size_t i = 0; i < kPeriod; ++i) {
    random = random * 1664525u + 1013904223u;
    // Sign, exponent of 2^-7 to 2^-6, seven bits of fraction: a bf16, and the high half of an fp32.
    const auto word = static_cast<uint16_t>((random >> 16 & 0x8000u) | 0x3c00u | (random >> 24 & 0x7fu));
    const auto f16 = static_cast<uint16_t>((word & 0x8000u) | 0x2000u | (word & 0x7fu) << 3);  // the same number
    words[i] = dtype == Dtype::f32 && i % 2 == 0 ? uint16_t{0} : dtype == Dtype::f16 ? f16 : word;
  }
  const auto bytes = std::as_bytes(std::span(words));
  for (size_t at = 0; at < memory.size(); at += bytes.size())
    place.write(memory.data() + at, bytes.first(std::min(bytes.size(), memory.size() - at)));
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

// Where everything lies that one block's program needs, at the size of the job: offsets from one begin.
struct BenchLayout {
  std::vector<int64_t> parameters, gradients, slots;
  std::array<int64_t, 3> boundaries{};  // input, output or its gradient, gradient of the input
  int64_t workspace = 0;                // beside the slots
  int64_t recomputing_workspace = 0;    // in place of the slots
  Bytes total;

  BenchLayout(const models::Model& model, const BlockProgram& block, const PassSize& size) {
    for (int g : block.groups()) {
      const models::ParameterGroup& group = model.groups[static_cast<size_t>(g)];
      parameters.push_back(take(group.weight_bytes(model.compute_dtype)));
      gradients.push_back(take(group.trainable ? group.elements * size_of(size.gradient_dtype) : 0));
    }
    for (int64_t& boundary : boundaries) boundary = take(size.tokens * model.hidden * size_of(model.compute_dtype));
    recomputing_workspace = total.count;
    for (const models::SlotSpec& slot : block.slots())
      slots.push_back(take(size.tokens * slot.elements_per_token * size_of(slot.dtype)));
    workspace = total.count;
    const std::vector<uint8_t> none(slots.size(), 0), all(slots.size(), 1);
    const auto bytes = [&](models::Pass pass, const std::vector<uint8_t>& kept) {
      return block.workspace_bytes(pass, size.tokens, kept);
    };
    const Bytes beside = std::max(bytes(models::Pass::forward, all), bytes(models::Pass::backward, all));
    const Bytes instead = bytes(models::Pass::backward, none);
    total.count = std::max(workspace + beside.count, recomputing_workspace + instead.count);
  }

 private:
  int64_t take(int64_t bytes) {
    constexpr int64_t kAlignment = 64;
    const int64_t begin = total.count;
    total.count += round_up(std::max<int64_t>(bytes, 1), kAlignment);
    return begin;
  }
};

class Bench {
 public:
  Bench(PassPlace& place, const models::Model& model, const BlockProgram& block, const PassSize& size,
        const models::MicroBatch& batch)
      : context_(*model.context),
        block_(block),
        batch_(batch),
        gradient_dtype_(size.gradient_dtype),
        layout_(model, block, size),
        memory_(place.allocate(layout_.total)) {
    context_.place({&batch, 1});
    for (size_t i = 0; i < block.groups().size(); ++i) {
      const models::ParameterGroup& group = model.groups[static_cast<size_t>(block.groups()[i])];
      std::byte* parameters = at(layout_.parameters[i]);
      fill(place, {parameters, static_cast<size_t>(group.weight_bytes(model.compute_dtype))}, model.compute_dtype);
      parameters_.push_back(parameters);
      gradients_.push_back(group.trainable ? at(layout_.gradients[i]) : nullptr);
    }
    for (int64_t slot : layout_.slots) slots_.push_back(at(slot));
    fill(place,
         {at(layout_.boundaries[0]), static_cast<size_t>(size.tokens * model.hidden * size_of(model.compute_dtype))},
         model.compute_dtype);
  }

  void forward() const {
    block_.forward(
        {&batch_, at(layout_.boundaries[0]), at(layout_.boundaries[1]), parameters_, slots_, from(layout_.workspace)});
  }
  void backward(bool keeps_slots) const {
    const std::vector<const void*> kept(slots_.begin(), slots_.end()), none(slots_.size(), nullptr);
    void* input_gradient = at(layout_.boundaries[2]);
    block_.backward(keeps_slots ? arguments(gradients_, input_gradient, kept, from(layout_.workspace))
                                : arguments(gradients_, input_gradient, none, from(layout_.recomputing_workspace)));
  }
  void loss(bool wants_gradients) const {
    const std::vector<void*> nothing(gradients_.size(), nullptr);
    const std::vector<const void*> no_slots;
    static_cast<const models::HeadProgram&>(block_).loss(
        arguments(wants_gradients ? gradients_ : nothing, wants_gradients ? at(layout_.boundaries[2]) : nullptr,
                  no_slots, from(layout_.workspace)),
        context_.reports(1)[0]);
  }

 private:
  std::byte* at(int64_t offset) const { return memory_->bytes().data() + offset; }
  std::span<std::byte> from(int64_t offset) const { return memory_->bytes().subspan(static_cast<size_t>(offset)); }
  models::BackwardArgs arguments(std::span<void* const> gradients, void* input_gradient,
                                 std::span<const void* const> slots, std::span<std::byte> workspace) const {
    return {&batch_,
            at(layout_.boundaries[0]),
            at(layout_.boundaries[1]),
            input_gradient,
            parameters_,
            gradients,
            accumulate_,
            gradient_dtype_,
            slots,
            workspace};
  }

  models::ProgramContext& context_;
  const BlockProgram& block_;
  const models::MicroBatch& batch_;
  Dtype gradient_dtype_;
  BenchLayout layout_;
  std::unique_ptr<PassPlace::Memory> memory_;
  std::vector<const void*> parameters_;
  std::vector<void*> gradients_, slots_;
  std::vector<uint8_t> accumulate_ = std::vector<uint8_t>(8, 0);
};

// Memory that, once walked through, leaves nothing else in the caches: between a block's forward and its backward all
// the others run. With warm caches a layer's backward was measured a tenth too short.
class CacheSweep {
 public:
  explicit CacheSweep(Bytes spare) {
    const Bytes enough{2 * std::max<int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), MiB(16).count)};
    const Bytes bytes = std::min({enough, spare, kCacheSweepBytesMost});
    if (bytes.count > 0) slab_.emplace(bytes);
  }
  void operator()() const {
    constexpr size_t kLine = 64;
    if (!slab_) return;
    const std::span<std::byte> memory = slab_->memory();
    for (size_t i = 0; i < memory.size(); i += kLine) memory[i] ^= std::byte{1};
  }

 private:
  std::optional<swap::HostSlab> slab_;
};

// What each pass takes as a rule: the median of several rounds after the first, which also makes caches and compiles
// kernels. Passes take turns, so that what disturbs the machine for a while disturbs them alike. Long ones are
// disturbed less, and repeated less often; beside the longest what the first round makes is nothing.
std::vector<Microseconds> typical(PassPlace& place, const CacheSweep& sweep,
                                  std::initializer_list<std::function<void()>> passes) {
  constexpr size_t kRoundsMost = 7;
  constexpr double kEnoughUs = 800e3, kLongestUs = 10e6;
  std::vector<std::vector<double>> runs(passes.size());
  double first = 0, later = 0;
  for (size_t round = 0; round < kRoundsMost && later < kEnoughUs && (round != 1 || first < kLongestUs); ++round)
    for (size_t pass = 0; pass < passes.size(); ++pass) {
      sweep();
      runs[pass].push_back(place.time(passes.begin()[pass]).count);
      (round == 0 ? first : later) += runs[pass].back();
    }
  std::vector<Microseconds> medians;
  for (std::vector<double>& each : runs) {
    if (each.size() > 1) each.erase(each.begin());
    const auto middle = each.begin() + static_cast<std::ptrdiff_t>(each.size() / 2);
    std::nth_element(each.begin(), middle, each.end());
    medians.push_back({*middle});
  }
  return medians;
}

BlockPass measure(PassPlace& place, const models::Model& model, const BlockProgram& block, const Bench& bench,
                  const CacheSweep& sweep) {
  BlockPass pass;
  if (&block == &model.head()) {
    const auto times = typical(place, sweep, {[&] { bench.loss(false); }, [&] { bench.loss(true); }});
    pass.forward = times[0];
    pass.backward = pass.backward_recomputing = times[1];
    return pass;
  }
  const auto forward = [&] { bench.forward(); };
  const auto backward = [&] { bench.backward(true); };
  const auto recomputing = [&] { bench.backward(false); };
  const auto times = block.slots().empty() ? typical(place, sweep, {forward, backward})
                                           : typical(place, sweep, {forward, backward, recomputing});
  pass.forward = times[0];
  pass.backward = times[1];
  pass.backward_recomputing = times.back();
  return pass;
}

// Blocks with the same key do the same work.
std::string kind_of(const models::Model& model, const BlockProgram& block) {
  const models::BlockCost cost = block.cost();
  std::string key = std::to_string(cost.forward_flops_per_token) + ' ' + std::to_string(cost.backward_flops_per_token) +
                    ' ' + std::to_string(cost.attention_flops_per_token_per_position);
  for (int g : block.groups()) {
    const models::ParameterGroup& group = model.groups[static_cast<size_t>(g)];
    key += ' ' + std::to_string(group.elements) + (group.packed ? 'p' : group.trainable ? 't' : 'f');
  }
  return key + (&block == &model.head() ? " head" : "");
}

const BlockProgram& middle_layer(const models::Model& model) { return *model.blocks[model.blocks.size() / 2]; }

}  // namespace

Bytes pass_memory(const models::Model& model, const PassSize& size) {
  Bytes most;
  for (const auto& block : model.blocks) most = std::max(most, BenchLayout(model, *block, size).total);
  return most;
}

Bytes layer_load_memory(const models::Model& model, const PassSize& size) {
  return BenchLayout(model, middle_layer(model), size).total;
}

std::function<void()> layer_load(const models::Model& model, const PassSize& size) {
  struct Load {
    Load(const models::Model& model, const PassSize& size)
        : place(make_host_place()), batch(model, size), bench(*place, model, middle_layer(model), size, batch.view()) {}
    std::unique_ptr<PassPlace> place;
    Batch batch;
    Bench bench;
  };
  // std::function must be copyable.
  return [load = std::make_shared<Load>(model, size)] {
    load->bench.forward();
    load->bench.backward(true);
  };
}

BlockPasses slowed(BlockPasses passes, double times) {
  for (BlockPass& pass : passes.blocks) {
    for (Microseconds* each : {&pass.forward, &pass.backward, &pass.backward_recomputing}) *each = *each * times;
    for (Microseconds& each : pass.slot_recomputing) each = each * times;
  }
  return passes;
}

BlockPasses measure_block_passes(PassPlace& where, const models::Model& model, const PassSize& size, Bytes spare) {
  const CacheSweep sweep(spare);
  const Batch batch(model, size);
  std::map<std::string, BlockPass> measured;
  BlockPasses passes;
  for (const auto& block : model.blocks) {
    const auto [place, fresh] = measured.try_emplace(kind_of(model, *block));
    if (fresh) {
      const Bench bench(where, model, *block, size, batch.view());
      where.begin_transient();
      place->second = measure(where, model, *block, bench, sweep);
      passes.transient = std::max(passes.transient, where.transient());
    }
    passes.blocks.push_back(place->second);
  }
  return passes;
}

}  // namespace sluice::exec
