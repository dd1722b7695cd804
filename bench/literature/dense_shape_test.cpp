#include "bench/literature/dense_shape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "bench/literature/calibration.h"
#include "bench/literature/policies.h"
#include "runtime/plan/planner.h"
#include "runtime/plan/schedule_builder.h"
#include "runtime/train/machine_file.h"

namespace sluice::literature {
namespace {

plan::Machine machine() {
  return train::read_machine(std::string(SLUICE_SOURCE_DIR) + "/configs/machine/fuyou_768g.yaml");
}

const DenseModel kSmall{"small", 12, 1024, 8};

struct Traffic {
  double read = 0, written = 0;  // bytes per parameter of one layer
};

// Of a layer in the middle: the last ones are still in memory when backward begins.
Traffic traffic_of(const plan::JobShape& shape, const std::vector<plan::Schedule>& schedules) {
  constexpr int kGroup = 5;
  Traffic traffic;
  const auto parameters = static_cast<double>(shape.groups[kGroup].elements);
  for (const plan::Schedule& schedule : schedules)
    for (const plan::Op& op : schedule.ops) {
      if (op.group != kGroup) continue;
      if (op.kind == plan::OpKind::read) traffic.read += static_cast<double>(op.bytes) / parameters;
      if (op.kind == plan::OpKind::write) traffic.written += static_cast<double>(op.bytes) / parameters;
    }
  return traffic;
}

DenseJob peers_job() { return {kSmall, 1024, 2, 1, StateFormat::separate_master, Recomputation::whole_layer}; }

TEST(DenseShape, HasTheParametersOfGpt3) {
  for (const char* name : {"13B", "175B"}) {
    const DenseModel& model = dense_model(name);
    const plan::JobShape shape = dense_shape({model}, machine());
    double parameters = 0;
    for (const plan::GroupShape& group : shape.groups) parameters += static_cast<double>(group.elements);
    const auto h = static_cast<double>(model.hidden);
    const double expected = 12 * static_cast<double>(model.layers) * h * h + static_cast<double>(model.vocabulary) * h;
    EXPECT_LT(std::abs(parameters / expected - 1), 0.01) << name;
    EXPECT_EQ(parameters, static_cast<double>(model.parameters())) << name;
  }
}

TEST(DenseShape, CountsSixFlopsPerParameterAndTokenAndTwoMoreWhenRecomputed) {
  const DenseModel& model = dense_model("13B");
  const plan::JobShape shape =
      dense_shape({model, 1024, 1, 1, StateFormat::separate_master, Recomputation::whole_layer}, machine());
  const plan::BlockShape& layer = shape.blocks[1];
  const double each = static_cast<double>(model.layer_parameters()) * 1024;
  double recomputed = 0;
  for (const plan::SlotShape& slot : layer.slots) recomputed += slot.recompute_flops;
  EXPECT_NEAR(recomputed / layer.forward_flops, 1, 1e-9);
  // Attention of 1024 tokens adds 3% to what the weights take.
  EXPECT_NEAR((layer.forward_flops + layer.backward_flops) / each, 6, 0.3);
}

TEST(DenseShape, MicroBatchesAddGradientsUpInFp32) {
  EXPECT_EQ(dense_shape({kSmall, 1024, 2, 1}, machine()).gradient_bytes_per_element, 2);
  EXPECT_EQ(dense_shape({kSmall, 1024, 2, 4}, machine()).gradient_bytes_per_element, 4);
}

TEST(PeerPolicies, FuyouReads16AndWrites14BytesPerParameter) {
  const plan::JobShape shape = dense_shape(peers_job(), machine());
  const plan::Plan plan = fuyou_plan(shape, 1, 8, GiB(64));
  const Traffic traffic = traffic_of(shape, fuyou_schedules(shape, plan).schedules);
  EXPECT_DOUBLE_EQ(traffic.read, 16);
  EXPECT_DOUBLE_EQ(traffic.written, 14);
}

TEST(PeerPolicies, ZeroInfinityReads16AndWrites14BytesPerParameter) {
  const plan::JobShape shape = dense_shape(peers_job(), machine());
  const plan::Plan plan = zero_infinity_plan(shape, Tier::host, 1);
  const Traffic traffic = traffic_of(shape, zero_infinity_schedules(shape, plan).schedules);
  EXPECT_DOUBLE_EQ(traffic.read, 16);
  EXPECT_DOUBLE_EQ(traffic.written, 14);
}

TEST(OurPolicy, OnDiskReads14AndWrites12BytesPerParameter) {
  const plan::JobShape shape = dense_shape({kSmall, 1024, 2, 1}, machine());
  plan::PlanRequest request = automatic_request(shape, machine());
  request.weights = request.states = Tier::disk;
  request.gradients = Tier::host;
  request.update = plan::UpdateTime::before_forward;
  const std::optional<plan::Planned> planned = find_plan(shape, request);
  ASSERT_TRUE(planned);
  const plan::Phase steady = steady_phase(planned->plan, 1);
  const Traffic traffic = traffic_of(shape, {planned->schedules.at(steady)});
  EXPECT_DOUBLE_EQ(traffic.read, 14);
  EXPECT_DOUBLE_EQ(traffic.written, 12);
}

// What fits with less fits with more: a search must not end in a worse place for it.
TEST(OurPolicy, MoreMemoryIsNeverSlower) {
  const DenseModel& model = dense_model("13B");
  const auto time = [&](int64_t rows, int drives, int64_t gigabytes) {
    // As the tables calibrate it: AdamW at a quarter of what the file says binds small batches.
    plan::Machine machine = with_drives(calibrated(literature::machine(), {{51.2e9}, 158e12}), drives);
    machine.host_bytes = {gigabytes * 1'000'000'000};
    const std::optional<Outcome> ours = sluice_step(model, rows, 1, machine);
    return ours ? ours->time.count : std::numeric_limits<double>::infinity();
  };
  constexpr double kNoise = 1.005;
  for (const auto& [rows, drives, less, more] : {std::tuple(8, 12, 128, 768), std::tuple(32, 1, 256, 768)}) {
    const double before = time(rows, drives, less), now = time(rows, drives, more);
    EXPECT_LE(now, before * kNoise) << rows << " rows, " << drives << " drives, " << less << " to " << more << " GB";
  }
}

TEST(PeerPolicies, FuyouSwapsWhatSavesTheMostFlopsPerByteFirst) {
  const plan::JobShape shape = dense_shape(peers_job(), machine());
  const auto swapped = [&](const plan::Plan& plan, size_t slot) {
    int count = 0;
    for (const plan::BlockPlan& block : plan.blocks)
      if (block.slots.size() > slot && block.slots[slot] != plan::SlotFate::recompute) ++count;
    return count;
  };
  const plan::Plan plan = fuyou_plan(shape, 1, 12, GiB(64));
  EXPECT_EQ(swapped(plan, 4), 12);
  for (size_t slot = 0; slot < 4; ++slot) EXPECT_EQ(swapped(plan, slot), 0) << slot;
}

}  // namespace
}  // namespace sluice::literature
