#include "runtime/exec/executor.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <thread>

#include "optim/worker_pool.h"
#include "runtime/exec/arena.h"
#include "runtime/exec/compute_op.h"
#include "runtime/exec/device.h"
#include "runtime/exec/lane_thread.h"
#include "runtime/plan/buffer_names.h"

namespace sluice::exec {
namespace {

using plan::Op;
using plan::Operand;
using plan::OpId;
using plan::OpKind;
using plan::Role;

constexpr int64_t kUpdateGrain = 1 << 16;

const Operand& operand_of(const Op& op, Role role) {
  const auto found =
      std::find_if(op.operands.begin(), op.operands.end(), [&](const Operand& o) { return o.role == role; });
  SLUICE_CHECK(found != op.operands.end(), "op without operand: " + describe(op));
  return *found;
}
const Operand* find_operand(const Op& op, Role role) {
  const auto found =
      std::find_if(op.operands.begin(), op.operands.end(), [&](const Operand& o) { return o.role == role; });
  return found == op.operands.end() ? nullptr : &*found;
}

// One chunk of optimizer states as it lies in memory and in its extent.
struct StatesView {
  std::span<float> m, v;
  std::span<int16_t> lo;  // empty for fp32 weights
  StatesView(std::byte* at, int64_t elements, bool split)
      : m(reinterpret_cast<float*>(at), static_cast<size_t>(elements)),
        v(reinterpret_cast<float*>(at) + elements, static_cast<size_t>(elements)),
        lo(reinterpret_cast<int16_t*>(at + 8 * elements), split ? static_cast<size_t>(elements) : 0) {}
};

template <class T>
std::span<T> slice(std::span<T> whole, int64_t begin, int64_t end) {
  return whole.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

}  // namespace

struct Executor::Impl {
  Impl(const models::Model& model_in, const plan::JobShape& shape_in, const plan::Planned& planned_in,
       JobSources sources_in, swap::SwapEngine& swap_in, const ExecutorOptions& options_in)
      : model(model_in),
        shape(shape_in),
        planned(planned_in),
        sources(std::move(sources_in)),
        swap(swap_in),
        options(options_in) {
    const Bytes device_bytes = planned.memory.peak[static_cast<size_t>(Tier::device)];
    const Bytes host_bytes = planned.memory.peak[static_cast<size_t>(Tier::host)];
    device = options.make_device ? options.make_device(device_bytes, events, clock)
                                 : make_thread_device({device_bytes, options.h2d, options.d2h}, events, clock);
    if (device_bytes.count > 0) arenas[0] = std::make_unique<Arena>(device->memory());
    if (host_bytes.count > 0) arenas[1] = std::make_unique<Arena>(host_bytes);
    slabs = std::count_if(arenas.begin(), arenas.end(), [](const auto& arena) { return arena != nullptr; });
    if (arenas[1]) {
      swap.register_memory(arenas[1]->memory());
      if (std::string note = device->register_host(arenas[1]->memory()); !note.empty())
        notes.push_back(std::move(note));
    }
    for (size_t id = 0; id < planned.layout.buffers().size(); ++id) {
      const plan::Buffer& buffer = planned.layout.buffers()[id];
      if (buffer.tier == Tier::disk)
        extents[static_cast<plan::BufferId>(id)] = swap.create_extent(Bytes{buffer.wanted_bytes}, buffer.name);
    }
    for (const auto& file : sources.files) source_ids.push_back(swap.open_source(file));
    const int threads = options.optimizer_threads > 0
                            ? options.optimizer_threads
                            : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    pool = std::make_unique<optim::WorkerPool>(threads);
  }

  bool split() const { return model.compute_dtype == Dtype::bf16; }
  double now_us() const { return clock.now_us(); }
  const plan::Buffer& buffer(plan::BufferId id) const { return planned.layout.at(id); }
  Arena& arena(Tier tier) {
    SLUICE_CHECK(arenas[static_cast<size_t>(tier)] != nullptr, "the plan gave this tier no bytes");
    return *arenas[static_cast<size_t>(tier)];
  }
  std::byte* address(const Operand& operand) {
    const plan::Buffer& where = buffer(operand.buffer);
    return arena(where.tier).memory().data() + where.offset + operand.offset;
  }
  // What transfers may use: the operand's bytes rounded up to the drive's blocks.
  std::span<std::byte> transfer_memory(const Operand& operand) {
    return {address(operand), static_cast<size_t>(round_up(operand.bytes, 4096))};
  }

  // --- a phase -------------------------------------------------------------------------------------------------

  struct LaneState {
    std::vector<OpId> order;
    size_t next = 0;
  };

  const models::Model& model;
  const plan::JobShape& shape;
  const plan::Planned& planned;
  JobSources sources;
  swap::SwapEngine& swap;
  ExecutorOptions options;
  std::array<std::unique_ptr<Arena>, 2> arenas;
  int64_t slabs = 0;
  std::vector<std::string> notes;
  std::map<plan::BufferId, swap::ExtentId> extents;
  std::vector<swap::SourceId> source_ids;
  EventQueue events;
  std::unique_ptr<optim::WorkerPool> pool;
  PhaseClock clock;
  std::unique_ptr<Device> device;

  const plan::Schedule* schedule = nullptr;
  PhaseInputs inputs;
  PhaseResult result;
  std::span<models::OpReport> reports;  // per op
  std::vector<int> waiting_for;  // per op: dependencies that have not ended and that it must not be issued before
  std::vector<std::vector<OpId>> dependents;
  std::array<LaneState, kLaneCount> lanes;
  std::vector<int> transfers_left;             // per op, for those made of several transfers
  std::vector<std::vector<Lease>> leases;      // per op in flight
  std::vector<double> norms;                   // per group
  std::vector<std::vector<double>> norm_runs;  // per group: partial sums
  std::optional<Error> failure;
  bool poisoned = false;
  int in_flight = 0;
  size_t ended = 0;

  PhaseResult run(const plan::Schedule& next, const PhaseInputs& with) {
    SLUICE_CHECK(!poisoned, "a phase was run after one failed");
    prepare(next, with);
    issue_ready();
    while (in_flight > 0) {
      wait_for_events();
      failure ? device->abandon() : issue_ready();
    }
    result.seconds = now_us() / 1e6;
    if (failure) {
      poisoned = true;
      throw RunError(*failure);
    }
    SLUICE_CHECK(ended == schedule->ops.size(), "the schedule stalled although it was verified");
    for (const double norm : norms) result.squared_gradient_norm += norm;
    return std::move(result);
  }

  void prepare(const plan::Schedule& next, const PhaseInputs& with) {
    schedule = &next;
    inputs = with;
    result = {};
    result.loss_sums.assign(inputs.micro_batches.size(), 0);
    result.ops.assign(next.ops.size(), {});
    waiting_for.assign(next.ops.size(), 0);
    dependents.assign(next.ops.size(), {});
    transfers_left.assign(next.ops.size(), 0);
    leases.clear();
    leases.resize(next.ops.size());
    norms.assign(shape.groups.size(), 0);
    norm_runs.assign(shape.groups.size(), {});
    for (auto& lane : lanes) lane = {};
    in_flight = 0;
    ended = 0;
    for (size_t id = 0; id < next.ops.size(); ++id) {
      lanes[static_cast<size_t>(next.ops[id].lane)].order.push_back(static_cast<OpId>(id));
      for (OpId before : next.ops[id].after) {
        if (device_orders(next.ops[static_cast<size_t>(before)], next.ops[id])) continue;
        ++waiting_for[id];
        dependents[static_cast<size_t>(before)].push_back(static_cast<OpId>(id));
      }
    }
    model.context->place(inputs.micro_batches);
    reports = model.context->reports(next.ops.size());
    clock.restart();
    device->begin_phase(next);
  }

  static bool device_orders(const Op& before, const Op& op) { return on_device(before.lane) && on_device(op.lane); }
  DeviceOp device_op(OpId id, const Op& op) const {
    DeviceOp posted{id, op.lane, {}};
    for (OpId before : op.after)
      if (device_orders(schedule->ops[static_cast<size_t>(before)], op)) posted.after.push_back(before);
    return posted;
  }

  // Each lane starts its ops in schedule order.
  void issue_ready() {
    for (auto& lane : lanes)
      while (lane.next < lane.order.size() && waiting_for[static_cast<size_t>(lane.order[lane.next])] == 0 && !failure)
        issue(lane.order[lane.next++]);
  }

  void wait_for_events() {
    std::array<pollfd, 2> fds = {pollfd{events.fd(), POLLIN, 0}, pollfd{swap.event_fd(), POLLIN, 0}};
    int ready;
    do ready = poll(fds.data(), fds.size(), -1);
    while (ready < 0 && errno == EINTR);
    for (LaneEvent& event : events.drain()) end(std::move(event));
    for (swap::Completion& completion : swap.poll()) {
      const auto op = static_cast<OpId>(completion.token);
      if (!completion.result.ok() && !failure) failure = completion.result.error();
      if (--transfers_left[static_cast<size_t>(op)] == 0)
        end({op, result.ops[static_cast<size_t>(op)].begin.count, now_us()});
    }
  }

  void end(LaneEvent event) {
    const auto id = static_cast<size_t>(event.op);
    --in_flight;
    ++ended;
    leases[id].clear();
    result.ops[id] = {{event.begin_us}, {event.end_us}};
    const Op& op = schedule->ops[id];
    if (op.kind == OpKind::loss || op.kind == OpKind::loss_only)
      result.loss_sums[static_cast<size_t>(op.micro_batch)] = event.loss_sum;
    if (event.error && !failure) failure = std::move(event.error);
    for (OpId dependent : dependents[id]) --waiting_for[static_cast<size_t>(dependent)];
  }

  void issue(OpId id) {
    const Op& op = schedule->ops[static_cast<size_t>(id)];
    ++in_flight;
    for (const Operand& operand : op.operands)
      if (buffer(operand.buffer).tier != Tier::disk)
        leases[static_cast<size_t>(id)].push_back(arena(buffer(operand.buffer).tier).lease(buffer(operand.buffer)));
    switch (op.kind) {
      case OpKind::read:
      case OpKind::write:
      case OpKind::read_source:
        issue_transfer(id, op);
        break;
      case OpKind::copy_to_device:
      case OpKind::copy_to_host: {
        const Operand from = operand_of(op, Role::source), to = operand_of(op, Role::destination);
        device->post_copy(device_op(id, op), address(to), address(from), Bytes{from.bytes});
        break;
      }
      case OpKind::unpack:
        issue_unpack(id, op);
        break;
      case OpKind::init_states:
        issue_init_states(id, op);
        break;
      case OpKind::norm:
        issue_norm(id, op);
        break;
      case OpKind::update:
        issue_update(id, op);
        break;
      case OpKind::duplicate:
        issue_duplicate(id, op);
        break;
      case OpKind::forward:
      case OpKind::backward:
      case OpKind::loss:
      case OpKind::loss_only:
        issue_compute(id, op);
        break;
    }
  }

  // --- disk ----------------------------------------------------------------------------------------------------

  const SourceChunk& weights_chunk(const Op& op) const {
    const auto& chunks = sources.weights[static_cast<size_t>(op.group)].chunks;
    return chunks[static_cast<size_t>(op.begin / planned.plan.chunk_elements)];
  }
  SourceChunk states_chunk(const Op& op) const {
    return locate_states(sources.states[static_cast<size_t>(op.group)], op.begin, op.end);
  }

  void issue_transfer(OpId id, const Op& op) {
    result.ops[static_cast<size_t>(id)].begin = {now_us()};
    const auto token = static_cast<uint64_t>(id);
    transfers_left[static_cast<size_t>(id)] = 1;
    if (op.kind == OpKind::read) {
      swap.read(extents.at(operand_of(op, Role::source).buffer), transfer_memory(operand_of(op, Role::destination)),
                token);
    } else if (op.kind == OpKind::write) {
      swap.write(extents.at(operand_of(op, Role::destination).buffer), transfer_memory(operand_of(op, Role::source)),
                 token);
    } else {
      const Operand& staging = operand_of(op, Role::destination);
      const SourceChunk chunk = staging.index == 0 ? weights_chunk(op) : states_chunk(op);
      SLUICE_CHECK(chunk.staging_bytes <= buffer(staging.buffer).bytes, "staging is too small for " + describe(op));
      transfers_left[static_cast<size_t>(id)] = static_cast<int>(chunk.runs.size());
      for (const SourceRun& run : chunk.runs)
        swap.read_source(
            source_ids[static_cast<size_t>(run.file)], run.offset, run.bytes,
            {address(staging) + run.staging, static_cast<size_t>(swap::SwapEngine::source_span(run.offset, run.bytes))},
            token);
    }
  }

  // --- the optimizer lane --------------------------------------------------------------------------------------

  // Runs body over [begin, end) of the group's elements on the pool, then `after`, then reports.
  void on_pool(OpId id, const Op& op, std::function<void(int64_t, int64_t)> body, std::function<void()> after = {}) {
    const auto begin = std::make_shared<std::atomic<double>>(-1.0);
    pool->submit(
        op.end - op.begin, kUpdateGrain,
        [this, body = std::move(body), begin](int64_t first, int64_t last) {
          double unset = -1.0;
          begin->compare_exchange_strong(unset, now_us());
          body(first, last);
        },
        [this, id, begin, after = std::move(after)] {
          if (after) after();
          events.push({id, begin->load(), now_us()});
        });
  }

  void issue_unpack(OpId id, const Op& op) {
    const Operand& staging = operand_of(op, Role::source);
    const std::span<const std::byte> from{address(staging), static_cast<size_t>(staging.bytes)};
    std::byte* weights = address(operand_of(op, Role::destination));
    const bool trained = shape.groups[static_cast<size_t>(op.group)].trainable;
    on_pool(id, op, [this, &op, from, weights, trained](int64_t first, int64_t last) {
      unpack_weights(weights_chunk(op), from, model.compute_dtype, trained, op.begin + first, op.begin + last, op.begin,
                     weights);
    });
  }

  void issue_init_states(OpId id, const Op& op) {
    const StatesView states(address(operand_of(op, Role::destination)), op.end - op.begin, split());
    const Operand* source = find_operand(op, Role::source);
    const std::byte* staging = source == nullptr ? nullptr : address(*source);
    const auto staging_bytes = source == nullptr ? 0 : static_cast<size_t>(source->bytes);
    const bool from_checkpoint = staging != nullptr && !sources.states.empty();
    on_pool(id, op, [this, &op, states, staging, staging_bytes, from_checkpoint](int64_t first, int64_t last) {
      if (from_checkpoint) {
        copy_states(states_chunk(op), staging, states, first, last);
        return;
      }
      std::ranges::fill(slice(states.m, first, last), 0.0f);
      std::ranges::fill(slice(states.v, first, last), 0.0f);
      if (states.lo.empty()) return;
      if (staging == nullptr) {
        std::ranges::fill(slice(states.lo, first, last), int16_t{0});
      } else {
        unpack_low_bits(weights_chunk(op), {staging, staging_bytes}, op.begin + first, op.begin + last, op.begin,
                        states.lo.data());
      }
    });
  }
  static void copy_states(const SourceChunk& chunk, const std::byte* staging, StatesView states, int64_t first,
                          int64_t last) {
    const auto copy = [&](size_t part, auto to) {
      const size_t each = sizeof(to[0]);
      std::memcpy(to.data() + first, staging + chunk.parts[part].staging + static_cast<size_t>(first) * each,
                  static_cast<size_t>(last - first) * each);
    };
    copy(0, states.m);
    copy(1, states.v);
    if (!states.lo.empty()) copy(2, states.lo);
  }

  optim::GradientView gradient_view(const std::byte* at, int64_t elements) const {
    const auto count = static_cast<size_t>(elements);
    if (shape.gradient_bytes_per_element == 4) return {{reinterpret_cast<const float*>(at), count}, {}};
    return {{}, {reinterpret_cast<const uint16_t*>(at), count}};
  }

  void issue_norm(OpId id, const Op& op) {
    const auto group = static_cast<size_t>(op.group);
    const int64_t elements = shape.groups[group].elements;
    const std::byte* gradients = address(operand_of(op, Role::gradients));
    norm_runs[group].assign(static_cast<size_t>((elements + optim::kNormRunElements - 1) / optim::kNormRunElements), 0);
    static_assert(kUpdateGrain == optim::kNormRunElements, "one pool range is one run of the norm");
    Op whole = op;
    whole.end = elements;
    on_pool(
        id, whole,
        [this, group, gradients](int64_t first, int64_t last) {
          norm_runs[group][static_cast<size_t>(first / optim::kNormRunElements)] = optim::squared_norm(
              optim::best_isa(), gradient_view(gradients + first * shape.gradient_bytes_per_element, last - first));
        },
        [this, group] {
          for (const double run : norm_runs[group]) norms[group] += run;
        });
  }

  void issue_update(OpId id, const Op& op) {
    std::byte* weights = address(operand_of(op, Role::parameters));
    const std::byte* gradients = address(operand_of(op, Role::gradients));
    const StatesView states(address(operand_of(op, Role::states)), op.end - op.begin, split());
    const int64_t decayed = model.groups[static_cast<size_t>(op.group)].decay_elements;
    const optim::AdamWSettings settings = op.early ? inputs.early_update : inputs.update;
    optim::AdamWSettings undecayed = settings;
    undecayed.weight_decay = 0;
    on_pool(id, op, [=, this, &op](int64_t first, int64_t last) {
      // Norms and biases, which follow the matrices, do not decay.
      const int64_t border = std::clamp(decayed - op.begin, first, last);
      update_range(weights, gradients, states, first, border, settings);
      update_range(weights, gradients, states, border, last, undecayed);
    });
  }
  void issue_duplicate(OpId id, const Op& op) {
    const std::byte* from = address(operand_of(op, Role::source));
    std::byte* to = address(operand_of(op, Role::destination));
    Op whole = op;
    whole.begin = 0;
    whole.end = operand_of(op, Role::source).bytes;
    on_pool(id, whole, [from, to](int64_t first, int64_t last) {
      std::memcpy(to + first, from + first, static_cast<size_t>(last - first));
    });
  }
  void update_range(std::byte* weights, const std::byte* gradients, StatesView states, int64_t first, int64_t last,
                    const optim::AdamWSettings& settings) const {
    if (first >= last) return;
    const optim::GradientView gradient =
        gradient_view(gradients + first * shape.gradient_bytes_per_element, last - first);
    const auto count = static_cast<size_t>(last - first);
    if (split()) {
      optim::adamw_split(optim::best_isa(), settings, {reinterpret_cast<uint16_t*>(weights) + first, count},
                         slice(states.lo, first, last), gradient, slice(states.m, first, last),
                         slice(states.v, first, last));
    } else {
      optim::adamw_f32(optim::best_isa(), settings, {reinterpret_cast<float*>(weights) + first, count}, gradient,
                       slice(states.m, first, last), slice(states.v, first, last));
    }
  }

  // --- saving --------------------------------------------------------------------------------------------------

  void read_back(bool odd, const WeightsSink& weights_sink, const StatesSink& states_sink) {
    const plan::Layout& layout = planned.layout;
    for (int g = 0; g < static_cast<int>(shape.groups.size()); ++g) {
      const plan::GroupShape& group = shape.groups[static_cast<size_t>(g)];
      if (!group.trainable) continue;
      const plan::GroupPlan& where = planned.plan.groups[static_cast<size_t>(g)];
      const int set = plan::newest_set(planned.plan, g, odd);
      const plan::BufferId weights = layout.find(plan::host_weights_name(where, group, g, set));
      if (where.weights == Tier::disk) fetch(layout.find(plan::weights_extent_name(g, set)), weights);
      weights_sink(g, bytes_of(weights, 0, group.weight_bytes().count));
      read_back_states(g, set, states_sink);
    }
  }
  void read_back_states(int g, int set, const StatesSink& sink) {
    const plan::Layout& layout = planned.layout;
    const plan::GroupShape& group = shape.groups[static_cast<size_t>(g)];
    const plan::GroupPlan& where = planned.plan.groups[static_cast<size_t>(g)];
    const int64_t each = group.state_bytes_per_element;
    for (int64_t begin = 0, chunk = 0; begin < group.elements; begin += planned.plan.chunk_elements, ++chunk) {
      const int64_t end = std::min(begin + planned.plan.chunk_elements, group.elements);
      if (where.states == Tier::disk) {
        const plan::BufferId states = layout.find(plan::kStatesRingFirst);
        fetch(layout.find(plan::states_extent_name(g, chunk, set)), states);
        sink(g, begin, end, bytes_of(states, 0, (end - begin) * each));
      } else {
        sink(g, begin, end, bytes_of(layout.find(plan::host_states_name(g, set)), begin * each, (end - begin) * each));
      }
    }
  }
  std::span<std::byte> bytes_of(plan::BufferId id, int64_t offset, int64_t bytes) {
    return {arena(buffer(id).tier).memory().data() + buffer(id).offset + offset, static_cast<size_t>(bytes)};
  }
  // Blocks until one extent is in memory: between phases nothing else is in flight.
  void fetch(plan::BufferId extent, plan::BufferId into) {
    swap.read(extents.at(extent), bytes_of(into, 0, round_up(buffer(extent).wanted_bytes, 4096)), 0);
    for (;;) {
      for (const swap::Completion& completion : swap.wait(std::chrono::seconds(1))) {
        if (!completion.result.ok()) throw RunError(completion.result.error());
        return;
      }
    }
  }

  // --- compute -------------------------------------------------------------------------------------------------

  void issue_compute(OpId id, const Op& op) {
    device->post_compute(device_op(id, op), [this, id, &op]() -> ComputeOutcome {
      if (options.compute_waits) {
        clock.wait_until(now_us() + op.time.count);
        return {};
      }
      const ComputeContext context{&model, shape.gradient_bytes_per_element == 4 ? Dtype::f32 : Dtype::bf16,
                                   inputs.micro_batches};
      try {
        return run_compute(
            op, context, [this](const Operand& operand) { return address(operand); }, reports[static_cast<size_t>(id)]);
      } catch (const std::exception& error) {
        ComputeOutcome failed;
        failed.result = Error{ErrorCode::io, describe(op) + ": " + error.what(), ""};
        return failed;
      }
    });
  }
};

Executor::Executor(const models::Model& model, const plan::JobShape& shape, const plan::Planned& planned,
                   JobSources sources, swap::SwapEngine& swap, const ExecutorOptions& options)
    : impl_(std::make_unique<Impl>(model, shape, planned, std::move(sources), swap, options)) {}

Executor::~Executor() = default;

PhaseResult Executor::run(const plan::Schedule& schedule, const PhaseInputs& inputs) {
  return impl_->run(schedule, inputs);
}

void Executor::read_back(bool odd, const WeightsSink& weights, const StatesSink& states) {
  impl_->read_back(odd, weights, states);
}

const std::vector<std::string>& Executor::notes() const { return impl_->notes; }

Bytes Executor::high_water(Tier tier) const {
  if (tier == Tier::disk) return impl_->planned.memory.peak[static_cast<size_t>(tier)];
  const auto& arena = impl_->arenas[static_cast<size_t>(tier)];
  return arena ? arena->high_water() : Bytes{};
}

int64_t Executor::arena_allocations() const { return impl_->slabs; }

}  // namespace sluice::exec
