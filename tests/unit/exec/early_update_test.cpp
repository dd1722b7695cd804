// Updates behind backward compute what updates before forward compute, whatever is clipped, undone and awaited.
#include <gtest/gtest.h>

#include "tests/unit/exec/toy_run.h"

namespace sluice::exec {
namespace {

using plan::DeviceMemory;
using plan::Early;
using plan::SlotFate;
using End = ToyStep::End;

const std::vector<ToyJob> kPlaces = {
    {"memory", DeviceMemory::unified, Tier::host, Tier::host, Tier::host, SlotFate::keep, 2},
    {"states_disk", DeviceMemory::unified, Tier::host, Tier::disk, Tier::host, SlotFate::keep, 1},
    {"weights_disk", DeviceMemory::unified, Tier::disk, Tier::host, Tier::host, SlotFate::keep, 1},
    {"disk", DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, SlotFate::disk, 4},
    {"emulated_device", DeviceMemory::separate, Tier::device, Tier::host, Tier::host, SlotFate::keep, 2},
    {"device_updates", DeviceMemory::separate, Tier::device, Tier::device, Tier::device, SlotFate::keep, 2},
    {"emulated_host", DeviceMemory::separate, Tier::host, Tier::disk, Tier::disk, SlotFate::host, 1},
    {"emulated_disk", DeviceMemory::separate, Tier::disk, Tier::disk, Tier::disk, SlotFate::disk, 3},
};
constexpr ToyUpdate kEarly[] = {ToyUpdate::early, ToyUpdate::every_other_early};

// Speculated and kept, speculated and redone, awaited, first and later, before and behind an evaluation.
const std::vector<std::vector<ToyStep>> kClipped = {
    {{Early::update, 1}, {Early::update, 1}, {Early::update, 1}, {Early::update, 1}},
    {{Early::update, 0.5f}, {Early::update, 0.25f}, {Early::update, 0.5f}, {Early::update, 0.5f}},
    {{Early::wait, 0.5f}, {Early::wait, 1}, {Early::wait, 0.25f}, {Early::wait, 0.5f}},
    {{Early::update, 1}, {Early::wait, 0.5f}, {Early::update, 0.5f}, {Early::wait, 1}, {Early::update, 1}},
    {{Early::wait, 0.5f}, {Early::update, 0.5f}, {Early::update, 1}, {Early::wait, 0.5f}, {Early::wait, 1}},
    {{Early::wait, 1, End::evaluate},
     {Early::update, 0.5f, End::evaluate},
     {Early::update, 1, End::evaluate},
     {Early::wait, 0.5f, End::evaluate},
     {Early::wait, 0.5f},
     {Early::update, 0.25f}},
};

ToyJob with(ToyJob job, ToyUpdate update, ToyClipping clipping) {
  job.update = update;
  job.clipping = clipping;
  return job;
}

int clipped_early(const std::vector<ToyStep>& steps) {
  return static_cast<int>(std::count_if(steps.begin(), steps.end(), [](const ToyStep& step) {
    return step.early == Early::update && step.gradient_scale != 1;
  }));
}

TEST(EarlyUpdate, UnclippedChangesNoBit) {
  const std::vector<ToyStep> steps(5, ToyStep{});
  for (const ToyJob& places : kPlaces)
    for (const int micro_batches : {1, 3})
      for (const ToyHeadKind head : {ToyHeadKind::own, ToyHeadKind::tied}) {
        ToyJob job = places;
        job.micro_batches = micro_batches;
        job.head = head;
        Toy late(job);
        const Outcome expected = late.train(steps);
        EXPECT_LT(expected.losses.back(), expected.losses.front());
        for (const ToyUpdate update : kEarly) {
          Toy early(with(job, update, ToyClipping::off));
          EXPECT_NE(early.plan_text(), late.plan_text());
          EXPECT_EQ(early.train(steps), expected) << job.name << " x" << micro_batches;
        }
      }
}

TEST(EarlyUpdate, KeptRedoneOrAwaitedChangesNoBit) {
  for (const ToyJob& places : kPlaces)
    for (const int micro_batches : {1, 3}) {
      ToyJob job = places;
      job.micro_batches = micro_batches;
      job.head = micro_batches == 1 ? ToyHeadKind::own : ToyHeadKind::tied;
      for (size_t i = 0; i < kClipped.size(); ++i) {
        Toy late(with(job, ToyUpdate::late, ToyClipping::on));
        const Outcome expected = late.train(kClipped[i]);
        EXPECT_EQ(expected.redone, 0);
        for (const ToyUpdate update : kEarly) {
          Toy early(with(job, update, ToyClipping::on));
          const Outcome outcome = early.train(kClipped[i]);
          EXPECT_EQ(outcome, expected) << job.name << " x" << micro_batches << ", steps " << i;
          EXPECT_EQ(outcome.redone, clipped_early(kClipped[i]));
        }
      }
    }
}

constexpr ToyStep skipped(Early early, End end = End::go_on) { return {early, 1, end, ToyStep::Fate::skipped}; }

// The first steps and the last, twice in a row, before and behind an evaluation, awaited and speculated.
const std::vector<std::vector<ToyStep>> kSkipped = {
    {skipped(Early::update), skipped(Early::update), {Early::update, 1}, {Early::update, 1}, skipped(Early::update)},
    {skipped(Early::wait), {Early::wait, 1}, skipped(Early::wait), {Early::update, 1}, skipped(Early::wait)},
    {{Early::update, 0.5f},
     skipped(Early::update, End::evaluate),
     {Early::wait, 0.5f, End::evaluate},
     skipped(Early::update),
     skipped(Early::wait),
     {Early::update, 0.25f}},
};

// As when fp16 overflows.
TEST(EarlyUpdate, ASkippedStepLeavesNoTrace) {
  for (const ToyJob& places : kPlaces)
    for (const std::vector<ToyStep>& steps : kSkipped) {
      std::vector<ToyStep> counted = steps;
      std::erase_if(counted, [](const ToyStep& step) { return step.fate == ToyStep::Fate::skipped; });
      Toy without(with(places, ToyUpdate::late, ToyClipping::on)), late(with(places, ToyUpdate::late, ToyClipping::on));
      const Outcome expected = without.train(counted), waited = late.train(steps);
      EXPECT_EQ(waited.weights, expected.weights) << places.name;
      EXPECT_EQ(waited.states, expected.states) << places.name;
      for (const ToyUpdate update : kEarly) {
        Toy early(with(places, update, ToyClipping::on));
        EXPECT_EQ(early.train(steps), waited) << places.name;
      }
    }
}

// The control: what is clipped and not redone does differ.
TEST(EarlyUpdate, TheClipFactorTakesPart) {
  Toy clipped(with(kPlaces[0], ToyUpdate::early, ToyClipping::on));
  Toy unclipped(with(kPlaces[0], ToyUpdate::early, ToyClipping::on));
  EXPECT_NE(clipped.train(kClipped[1]).weights, unclipped.train(kClipped[0]).weights);
}

TEST(EarlyUpdate, HighWaterEqualsTheSimulatedPeak) {
  for (const ToyJob& job : kPlaces)
    for (const ToyClipping clipping : {ToyClipping::off, ToyClipping::on}) {
      Toy toy(with(job, ToyUpdate::early, clipping));
      const int64_t allocated = toy.executor().arena_allocations();
      toy.train(clipping == ToyClipping::on ? kClipped[4] : kClipped[0]);
      for (const Tier tier : {Tier::device, Tier::host})
        EXPECT_EQ(toy.executor().high_water(tier).count, toy.simulated_peak()[static_cast<size_t>(tier)].count)
            << job.name << " " << name_of(tier);
      EXPECT_EQ(toy.executor().arena_allocations(), allocated);
    }
}

}  // namespace
}  // namespace sluice::exec
