#include "runtime/exec/executor.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>

#include "optim/worker_pool.h"
#include "runtime/core/processor.h"
#include "runtime/exec/arena.h"
#include "runtime/exec/compute_op.h"
#include "runtime/exec/device.h"
#include "runtime/exec/first_states.h"
#include "runtime/exec/group_chunk.h"
#include "runtime/exec/lane_thread.h"

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

}  // namespace

struct Executor::Impl {
  Impl(const models::Model& model_in, const plan::JobShape& shape_in, const plan::Planned& planned_in,
       JobSources sources_in, swap::SwapEngine& swap_in, const ExecutorOptions& options_in)
      : model(model_in),
        shape(shape_in),
        planned(planned_in),
        sources(std::move(sources_in)),
        swap(swap_in),
        options(options_in),
        watchdog(options_in.watchdog) {
    const Bytes device_bytes = planned.memory.peak[static_cast<size_t>(Tier::device)];
    const Bytes host_bytes = planned.memory.peak[static_cast<size_t>(Tier::host)];
    const int threads = options.optimizer_threads > 0 ? options.optimizer_threads : usable_cores();
    device = options.make_device ? options.make_device(device_bytes, events, clock)
                                 : make_thread_device({device_bytes, options.h2d, options.d2h, threads}, events, clock);
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
      if (buffer.tier == Tier::disk) extents[static_cast<plan::BufferId>(id)] = create_extent(buffer);
    }
    swap.reserve(plan::checkpoint_bytes(planned.memory, shape) - shape.checkpoints.held_bytes, "checkpoints");
    for (const auto& file : sources.files) source_ids.push_back(swap.open_source(file));
    place_norms();
    pool = std::make_unique<optim::WorkerPool>(threads);
  }

  swap::ExtentId create_extent(const plan::Buffer& buffer) {
    const std::string name = buffer.name.text();
    const auto place = options.places.find(name);
    return place == options.places.end() ? swap.create_extent(Bytes{buffer.wanted_bytes}, name)
                                         : swap.create_extent_at(Bytes{buffer.wanted_bytes}, place->second);
  }

  // Partial sums of every group's norm, where whoever adds them up writes.
  void place_norms() {
    const auto runs_of = [&](size_t g) {
      return (shape.groups[g].elements + optim::kNormRunElements - 1) / optim::kNormRunElements;
    };
    int64_t on_host = 0, on_device = 0;
    for (size_t g = 0; g < shape.groups.size(); ++g)
      (lives_on_device(planned.plan.groups[g]) ? on_device : on_host) += runs_of(g);
    host_sums.assign(static_cast<size_t>(on_host), 0);
    std::span<double> host = host_sums, own = on_device > 0 ? device->group_kernels()->allocate_sums(on_device) : host;
    for (size_t g = 0; g < shape.groups.size(); ++g) {
      std::span<double>& from = lives_on_device(planned.plan.groups[g]) ? own : host;
      norm_runs.push_back(from.first(static_cast<size_t>(runs_of(g))));
      from = from.subspan(norm_runs.back().size());
    }
  }

  Dtype gradient_dtype() const { return shape.gradient_bytes_per_element == 4 ? Dtype::f32 : model.compute_dtype; }
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
  Watchdog watchdog;
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
  std::vector<int> transfers_left;         // per op, for those made of several transfers
  std::vector<std::vector<Lease>> leases;  // per op in flight
  std::vector<double> norms;               // per group
  std::vector<double> host_sums;
  std::vector<std::span<double>> norm_runs;  // per group: partial sums
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
      failure ? come_to_rest() : issue_ready();
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

  // What is in flight ends; what it waits for may never come.
  void come_to_rest() {
    device->abandon();
    swap.stop_waiting_for_space();
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
    watchdog.begin_phase(next);
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
    const auto pause_ms = static_cast<int>(std::ceil(watchdog.pause().count / 1e3));
    int ready = 0;
    while (ready <= 0) {
      ready = poll(fds.data(), fds.size(), pause_ms);
      watchdog.check(now_us(), [this](OpId op) { return drive_request_of(op); });
    }
    for (LaneEvent& event : events.drain()) end(std::move(event));
    for (swap::Completion& completion : swap.poll()) {
      const auto op = static_cast<OpId>(completion.token);
      if (!completion.result.ok() && !failure) failure = completion.result.error();
      if (--transfers_left[static_cast<size_t>(op)] == 0)
        end({op, result.ops[static_cast<size_t>(op)].begin.count, now_us()});
    }
  }

  // Empty for ops that drives have no part in.
  std::string drive_request_of(OpId op) {
    const bool transfers = transfers_left[static_cast<size_t>(op)] > 0;
    return transfers ? swap.waits_for(static_cast<uint64_t>(op)) : "";
  }

  void end(LaneEvent event) {
    const auto id = static_cast<size_t>(event.op);
    watchdog.ended(event.op, now_us());
    --in_flight;
    ++ended;
    leases[id].clear();
    result.ops[id] = {{event.begin_us}, {event.end_us}};
    const Op& op = schedule->ops[id];
    if (op.kind == OpKind::loss || op.kind == OpKind::loss_only)
      result.loss_sums[static_cast<size_t>(op.micro_batch)] = event.loss_sum;
    if (event.error && !failure) failure = std::move(event.error);
    if (inputs.op_ended) inputs.op_ended(event.op);
    if (event.not_finite) {
      const bool output = event.not_finite->of == NotFinite::Of::output;
      std::optional<Error>& first = output ? result.bad_output : result.bad_gradient;
      if (!first) first = std::move(event.not_finite->error);
    }
    for (OpId dependent : dependents[id]) --waiting_for[static_cast<size_t>(dependent)];
  }

  void issue(OpId id) {
    const Op& op = schedule->ops[static_cast<size_t>(id)];
    ++in_flight;
    watchdog.issued(id, now_us());
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
    return chunks[static_cast<size_t>(op.begin /
                                      chunk_elements(planned.plan, shape.groups[static_cast<size_t>(op.group)]))];
  }
  const StateLayout& layout_of(const Op& op) const { return shape.groups[static_cast<size_t>(op.group)].states; }
  SourceChunk states_chunk(const Op& op) const {
    return locate_states(sources.states[static_cast<size_t>(op.group)], layout_of(op), op.begin, op.end);
  }

  bool lies_there(const Op& op) const {
    return inputs.restores_in_place && op.kind == OpKind::write &&
           options.places.contains(buffer(operand_of(op, Role::destination).buffer).name.text());
  }

  void issue_transfer(OpId id, const Op& op) {
    if (lies_there(op)) return events.push({id, now_us(), now_us()});
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
    const StatesChunk chunk{&layout_of(op), op.begin, op.end, address(operand_of(op, Role::destination))};
    const Operand* source = find_operand(op, Role::source);
    std::span<const std::byte> staging;
    if (source != nullptr) staging = {address(*source), static_cast<size_t>(source->bytes)};
    if (source != nullptr && !sources.states.empty()) {
      on_pool(id, op, [chunk, staging, from = states_chunk(op)](int64_t first, int64_t last) {
        restore_states(chunk, from, staging, first, last);
      });
      return;
    }
    const SourceChunk* from = source == nullptr ? nullptr : &weights_chunk(op);
    on_pool(id, op,
            [chunk, staging, from](int64_t first, int64_t last) { start_states(chunk, from, staging, first, last); });
  }

  // --- what is done to a group beside its passes: on the pool, or on the device that keeps it ------------------

  static bool on_device_itself(const Op& op) { return op.lane == Lane::compute; }

  void issue_norm(OpId id, const Op& op) {
    const auto group = static_cast<size_t>(op.group);
    const int64_t elements = shape.groups[group].elements;
    const std::byte* gradients = address(operand_of(op, Role::gradients));
    const std::span<double> runs = norm_runs[group];
    const auto add_up = [this, group, runs] {
      for (const double run : runs) norms[group] += run;
    };
    if (on_device_itself(op)) {
      post_compute(id, op, [=, this] {
        device->group_kernels()->squared_norm(gradients, gradient_dtype(), elements, runs.data());
        return when_done(add_up);
      });
      return;
    }
    static_assert(kUpdateGrain == optim::kNormRunElements, "one pool range is one run of the norm");
    Op whole = op;
    whole.end = elements;
    on_pool(
        id, whole,
        [=, this](int64_t first, int64_t last) {
          runs[static_cast<size_t>(first / optim::kNormRunElements)] = optim::squared_norm(
              optim::best_isa(),
              gradient_view(gradients + first * shape.gradient_bytes_per_element, gradient_dtype(), last - first));
        },
        add_up);
  }

  void issue_update(OpId id, const Op& op) {
    GroupChunk chunk;
    chunk.weights = address(operand_of(op, Role::parameters));
    chunk.gradients = address(operand_of(op, Role::gradients));
    chunk.states = address(operand_of(op, Role::states));
    chunk.elements = op.end - op.begin;
    chunk.decayed =
        std::clamp(model.groups[static_cast<size_t>(op.group)].decay_elements - op.begin, int64_t{0}, chunk.elements);
    chunk.layout = &layout_of(op);
    chunk.group = op.group;
    chunk.begin = op.begin;
    chunk.gradient_dtype = gradient_dtype();
    const optim::AdamWSettings settings = op.early ? inputs.early_update : inputs.update;
    if (on_device_itself(op)) {
      post_compute(id, op, [=, this] {
        device->group_kernels()->update(chunk, settings);
        return ComputeOutcome{};
      });
      return;
    }
    on_pool(id, op, [chunk, settings](int64_t first, int64_t last) { update_range(chunk, first, last, settings); });
  }

  void issue_duplicate(OpId id, const Op& op) {
    const std::byte* from = address(operand_of(op, Role::source));
    std::byte* to = address(operand_of(op, Role::destination));
    const int64_t bytes = operand_of(op, Role::source).bytes;
    if (on_device_itself(op)) {
      post_compute(id, op, [=, this] {
        device->group_kernels()->copy(to, from, bytes);
        return ComputeOutcome{};
      });
      return;
    }
    Op whole = op;
    whole.begin = 0;
    whole.end = bytes;
    on_pool(id, whole, [from, to](int64_t first, int64_t last) {
      std::memcpy(to + first, from + first, static_cast<size_t>(last - first));
    });
  }

  ReadBack trained() {
    return {shape, planned, swap, extents, *device, {memory_of(Tier::device), memory_of(Tier::host)}, watchdog};
  }

  std::span<std::byte> memory_of(Tier tier) {
    const auto& found = arenas[static_cast<size_t>(tier)];
    return found ? found->memory() : std::span<std::byte>();
  }

  // --- compute -------------------------------------------------------------------------------------------------

  void issue_compute(OpId id, const Op& op) {
    post_compute(id, op, [this, id, &op] {
      const ComputeContext context{&model, gradient_dtype(), inputs.micro_batches, inputs.when_not_finite};
      return run_compute(
          op, context, [this](const Operand& operand) { return address(operand); }, reports[static_cast<size_t>(id)]);
    });
  }
  void post_compute(OpId id, const Op& op, std::function<ComputeOutcome()> body) {
    device->post_compute(device_op(id, op), [this, &op, body = std::move(body)]() -> ComputeOutcome {
      if (options.compute_waits) {
        clock.wait_until(now_us() + op.time.count);
        return {};
      }
      try {
        return body();
      } catch (const SluiceException& failure) {
        Error error = failure.error();
        error.message = describe(op) + ": " + error.message;
        return failed(std::move(error));
      } catch (const std::bad_alloc&) {
        return failed({ErrorCode::capacity, describe(op) + ": there is no memory left for what the op takes", ""});
      } catch (const std::exception& error) {
        return failed({ErrorCode::io, describe(op) + ": " + error.what(), ""});
      }
    });
  }
  static ComputeOutcome failed(Error error) {
    ComputeOutcome outcome;
    outcome.result = std::move(error);
    return outcome;
  }
  static ComputeOutcome when_done(std::function<void()> act) {
    ComputeOutcome enqueued;
    enqueued.when_done = [act = std::move(act)] {
      act();
      return ComputeOutcome{};
    };
    return enqueued;
  }
};

Executor::Executor(const models::Model& model, const plan::JobShape& shape, const plan::Planned& planned,
                   JobSources sources, swap::SwapEngine& swap, const ExecutorOptions& options)
    : impl_(std::make_unique<Impl>(model, shape, planned, std::move(sources), swap, options)) {}

Executor::~Executor() = default;

PhaseResult Executor::run(const plan::Schedule& schedule, const PhaseInputs& inputs) {
  return impl_->run(schedule, inputs);
}

void Executor::read_back(bool odd, ReadBackOf of, const WeightsSink& weights, const StatesSink& states) {
  impl_->trained().run(odd, of, weights, states);
}
void Executor::read_weights(int group, bool odd, const WeightsSink& sink) {
  impl_->trained().weights(group, odd, sink);
}
void Executor::change(int group, bool odd, int64_t first, int64_t last, const WeightsChange& weights,
                      const StatesChange& states) {
  impl_->trained().change(group, odd, first, last, weights, states);
}
std::vector<TrainedExtent> Executor::trained_extents(bool odd) const { return impl_->trained().extents(odd); }

const std::vector<std::string>& Executor::notes() const { return impl_->notes; }

Bytes Executor::high_water(Tier tier) const {
  if (tier == Tier::disk) return plan::memory_in(tier, impl_->planned.memory, impl_->shape);
  const auto& arena = impl_->arenas[static_cast<size_t>(tier)];
  return arena ? arena->high_water() : Bytes{};
}

int64_t Executor::arena_allocations() const { return impl_->slabs; }

}  // namespace sluice::exec
