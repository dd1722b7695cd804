#include "runtime/exec/read_back.h"

#include <algorithm>
#include <chrono>

#include "runtime/plan/buffer_names.h"

namespace sluice::exec {
namespace {

constexpr uint64_t kToken = 0;  // of a transfer: there is never another

}  // namespace

void ReadBack::run(bool odd, ReadBackOf of, const WeightsSink& weights_sink, const StatesSink& states_sink) {
  const auto is_wanted = [of](Tier home) { return of == ReadBackOf::everything || home != Tier::disk; };
  for (int g = 0; g < static_cast<int>(shape_.groups.size()); ++g) {
    if (!shape_.groups[static_cast<size_t>(g)].trainable) continue;
    const plan::GroupPlan& where = planned_.plan.groups[static_cast<size_t>(g)];
    const int set = plan::newest_set(planned_.plan, g, odd);
    if (weights_sink && is_wanted(where.weights)) weights_sink(g, bring_weights(g, set));
    if (states_sink && is_wanted(where.states))
      for_each_chunk(g,
                     [&](const Chunk& chunk) { states_sink(g, chunk.begin, chunk.end, bring_states(g, set, chunk)); });
  }
}

void ReadBack::weights(int group, bool odd, const WeightsSink& sink) {
  sink(group, bring_weights(group, plan::newest_set(planned_.plan, group, odd)));
}

void ReadBack::change(int group, bool odd, int64_t first, int64_t last, const WeightsChange& weights,
                      const StatesChange& states) {
  const int set = plan::newest_set(planned_.plan, group, odd);
  weights(bring_weights(group, set));
  put_weights(group, set);
  if (!states) return;
  for_each_chunk(group, [&](const Chunk& chunk) {
    if (chunk.end <= first || chunk.begin >= last) return;
    states(chunk.begin, chunk.end, bring_states(group, set, chunk));
    put_states(group, set, chunk);
  });
}

std::vector<TrainedExtent> ReadBack::extents(bool odd) const {
  std::vector<TrainedExtent> all;
  const auto add = [&](const plan::BufferName& name, int g, plan::Tag content, int64_t begin, int64_t end) {
    const plan::BufferId id = planned_.layout.find(name);
    all.push_back({name.text(), g, content, begin, end, planned_.layout.at(id).wanted_bytes, extents_.at(id)});
  };
  for (int g = 0; g < static_cast<int>(shape_.groups.size()); ++g) {
    const plan::GroupShape& group = shape_.groups[static_cast<size_t>(g)];
    if (!group.trainable) continue;
    const plan::GroupPlan& where = planned_.plan.groups[static_cast<size_t>(g)];
    const int set = plan::newest_set(planned_.plan, g, odd);
    if (where.weights == Tier::disk) add(plan::weights_extent_name(g, set), g, plan::Tag::weights, 0, group.elements);
    if (where.states == Tier::disk)
      for_each_chunk(g, [&](const Chunk& chunk) {
        add(plan::states_extent_name(g, chunk.number, set), g, plan::Tag::states, chunk.begin, chunk.end);
      });
  }
  return all;
}

template <class Act>
void ReadBack::for_each_chunk(int g, const Act& act) const {
  const int64_t elements = shape_.groups[static_cast<size_t>(g)].elements, each = planned_.plan.chunk_elements;
  for (int64_t begin = 0, number = 0; begin < elements; begin += each, ++number)
    act(Chunk{number, begin, std::min(begin + each, elements)});
}

// Where it lives on the host, or passes through.
std::span<std::byte> ReadBack::bring_weights(int g, int set) {
  const plan::Layout& layout = planned_.layout;
  const plan::GroupShape& group = shape_.groups[static_cast<size_t>(g)];
  const plan::GroupPlan& where = planned_.plan.groups[static_cast<size_t>(g)];
  const plan::BufferId weights = layout.find(plan::host_weights_name(where, group, g, set));
  const std::span<std::byte> on_host = bytes_of(weights, 0, group.weight_bytes().count);
  if (where.weights == Tier::disk) fetch(layout.find(plan::weights_extent_name(g, set)), weights);
  if (lives_on_device(where)) from_device(layout.find(plan::device_weights_name(g, set)), 0, on_host);
  return on_host;
}

void ReadBack::put_weights(int g, int set) {
  const plan::Layout& layout = planned_.layout;
  const plan::GroupShape& group = shape_.groups[static_cast<size_t>(g)];
  const plan::GroupPlan& where = planned_.plan.groups[static_cast<size_t>(g)];
  const plan::BufferId weights = layout.find(plan::host_weights_name(where, group, g, set));
  if (where.weights == Tier::disk) store(weights, layout.find(plan::weights_extent_name(g, set)));
  if (lives_on_device(where))
    to_device(bytes_of(weights, 0, group.weight_bytes().count), layout.find(plan::device_weights_name(g, set)), 0);
}

std::span<std::byte> ReadBack::bring_states(int g, int set, const Chunk& chunk) {
  const plan::Layout& layout = planned_.layout;
  const plan::GroupShape& group = shape_.groups[static_cast<size_t>(g)];
  const plan::GroupPlan& where = planned_.plan.groups[static_cast<size_t>(g)];
  const int64_t offset = plan::states_begin(planned_.plan, group, chunk.begin);
  const int64_t bytes = group.states.bytes(chunk.begin, chunk.end);
  if (where.states == Tier::host) return bytes_of(layout.find(plan::states_name(where, g, set)), offset, bytes);
  const plan::BufferId passing = layout.find(plan::first_of_states_ring());
  const std::span<std::byte> on_host = bytes_of(passing, 0, bytes);
  if (where.states == Tier::disk)
    fetch(layout.find(plan::states_extent_name(g, chunk.number, set)), passing);
  else
    from_device(layout.find(plan::states_name(where, g, set)), offset, on_host);
  return on_host;
}

void ReadBack::put_states(int g, int set, const Chunk& chunk) {
  const plan::Layout& layout = planned_.layout;
  const plan::GroupShape& group = shape_.groups[static_cast<size_t>(g)];
  const plan::GroupPlan& where = planned_.plan.groups[static_cast<size_t>(g)];
  if (where.states == Tier::host) return;
  const plan::BufferId passing = layout.find(plan::first_of_states_ring());
  if (where.states == Tier::disk)
    store(passing, layout.find(plan::states_extent_name(g, chunk.number, set)));
  else
    to_device(bytes_of(passing, 0, group.states.bytes(chunk.begin, chunk.end)),
              layout.find(plan::states_name(where, g, set)), plan::states_begin(planned_.plan, group, chunk.begin));
}

std::span<std::byte> ReadBack::bytes_of(plan::BufferId id, int64_t offset, int64_t bytes) const {
  const plan::Buffer& buffer = planned_.layout.at(id);
  return memory_[static_cast<size_t>(buffer.tier)].subspan(static_cast<size_t>(buffer.offset + offset),
                                                           static_cast<size_t>(bytes));
}

void ReadBack::from_device(plan::BufferId from, int64_t offset, std::span<std::byte> to) {
  const auto bytes = static_cast<int64_t>(to.size());
  device_.read(to.data(), bytes_of(from, offset, bytes).data(), Bytes{bytes});
}

void ReadBack::to_device(std::span<const std::byte> from, plan::BufferId to, int64_t offset) {
  const auto bytes = static_cast<int64_t>(from.size());
  device_.write(bytes_of(to, offset, bytes).data(), from.data(), Bytes{bytes});
}

// Both block until that is done.
void ReadBack::fetch(plan::BufferId extent, plan::BufferId into) {
  swap_.read(extents_.at(extent), bytes_of(into, 0, round_up(planned_.layout.at(extent).wanted_bytes, 4096)), kToken);
  wait_for("read", "read for a checkpoint");
}
void ReadBack::store(plan::BufferId from, plan::BufferId extent) {
  swap_.write(extents_.at(extent), bytes_of(from, 0, round_up(planned_.layout.at(extent).wanted_bytes, 4096)), kToken);
  wait_for("write", "write of a changed tensor");
}

void ReadBack::wait_for(const char* lane, const char* what) {
  const std::chrono::duration<double, std::micro> pause(watchdog_.pause().count);
  const auto begin = std::chrono::steady_clock::now();
  for (double next_report_us = 0;;) {
    for (const swap::Completion& completion : swap_.wait(std::chrono::ceil<std::chrono::microseconds>(pause))) {
      if (!completion.result.ok()) throw RunError(completion.result.error());
      return;
    }
    const double age_us = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
    if (watchdog_.due(age_us, next_report_us))
      watchdog_.say(std::string("waiting: the ") + lane + " lane has not answered for " +
                    to_string(Microseconds{age_us}) + ": " + what + ", " + swap_.waits_for(kToken));
  }
}

}  // namespace sluice::exec
