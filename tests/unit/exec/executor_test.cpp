#include "runtime/exec/executor.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <functional>
#include <new>
#include <stdexcept>

#include "tests/unit/exec/toy_run.h"

namespace sluice::exec {
namespace {

using plan::DeviceMemory;
using plan::SlotFate;

constexpr ToyJob kMemory{"memory", DeviceMemory::unified, Tier::host, Tier::host, Tier::host, SlotFate::keep, 2};
const std::vector<ToyJob> kOthers = {
    {"disk", DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, SlotFate::keep, 1},
    {"disk_disk", DeviceMemory::unified, Tier::disk, Tier::disk, Tier::disk, SlotFate::disk, 4},
    {"recompute", DeviceMemory::unified, Tier::host, Tier::disk, Tier::host, SlotFate::recompute, 2},
    {"device", DeviceMemory::separate, Tier::device, Tier::host, Tier::host, SlotFate::keep, 2},
    {"device_updates", DeviceMemory::separate, Tier::device, Tier::device, Tier::device, SlotFate::keep, 2},
    {"emulated_host", DeviceMemory::separate, Tier::host, Tier::host, Tier::host, SlotFate::host, 1},
    {"emulated_disk", DeviceMemory::separate, Tier::disk, Tier::disk, Tier::disk, SlotFate::disk, 3},
};

TEST(Executor, EveryArrangementComputesTheSameBits) {
  Toy reference(kMemory);
  const Outcome expected = reference.train(5);
  EXPECT_LT(expected.losses.back(), expected.losses.front());
  for (const ToyJob& arrangement : kOthers) {
    Toy toy(arrangement);
    EXPECT_NE(toy.plan_text(), reference.plan_text()) << arrangement.name;
    const Outcome outcome = toy.train(5);
    EXPECT_EQ(outcome.losses, expected.losses) << arrangement.name;
    EXPECT_EQ(outcome.norms, expected.norms) << arrangement.name;
    EXPECT_EQ(outcome.weights, expected.weights) << arrangement.name;
  }
}

TEST(Executor, HighWaterEqualsTheSimulatedPeakAndNothingIsAllocatedAfterwards) {
  std::vector<ToyJob> all = kOthers;
  all.push_back(kMemory);
  for (const ToyJob& arrangement : all) {
    Toy toy(arrangement);
    const int64_t allocated = toy.executor().arena_allocations();
    toy.train(3);
    for (const Tier tier : {Tier::device, Tier::host})
      EXPECT_EQ(toy.executor().high_water(tier).count, toy.simulated_peak()[static_cast<size_t>(tier)].count)
          << arrangement.name << " " << name_of(tier);
    EXPECT_EQ(toy.executor().arena_allocations(), allocated);
  }
}

TEST(Executor, WhatIsChangedBetweenPhasesStaysChangedWhereverItLives) {
  std::vector<ToyJob> all = kOthers;
  all.push_back(kMemory);
  for (const ToyJob& arrangement : all) {
    Toy toy(arrangement);
    Outcome expected = toy.train(3);
    toy.change();
    for (float& weight : expected.weights) weight *= 2;
    for (float& state : expected.states) state *= 3;
    const Outcome found = toy.read_back();
    EXPECT_EQ(found.weights, expected.weights) << arrangement.name;
    EXPECT_EQ(found.states, expected.states) << arrangement.name;
  }
}

void expect_failure_at(const ToyJob& arrangement, int64_t request) {
  swap::Faults faults;
  faults.fail_at = request;
  faults.fail_errno = EIO;
  Toy toy(arrangement,
          [&](std::unique_ptr<swap::IoBackend> inner) { return swap::make_faulty_backend(std::move(inner), faults); });
  try {
    toy.train(5);
    FAIL() << arrangement.name << ": the fault at request " << request << " went unnoticed";
  } catch (const RunError& error) {
    EXPECT_NE(error.error().message.find("offset"), std::string::npos) << error.what();
  }
}

TEST(Executor, AFailedTransferStopsTheRunWithFileAndOffset) {
  for (const size_t arrangement : {size_t{1}, size_t{6}})
    for (const int64_t request : {0, 3, 10, 25, 40}) expect_failure_at(kOthers[arrangement], request);
}

TEST(Executor, AFlippedBitStopsTheRun) {
  swap::Faults faults;
  faults.flip_bit_at = 30;
  Toy toy(kOthers[0],
          [&](std::unique_ptr<swap::IoBackend> inner) { return swap::make_faulty_backend(std::move(inner), faults); });
  EXPECT_THROW(toy.train(5), RunError);
}

class LayerThatThrows final : public ToyBlock {
 public:
  LayerThatThrows(const models::BlockProgram& like, std::function<void()> act)
      : ToyBlock("layer", like.groups()[0]), act_(std::move(act)) {
    slots_.assign(like.slots().begin(), like.slots().end());
  }
  void forward(const models::ForwardArgs&) const override { act_(); }

 private:
  std::function<void()> act_;
};

void expect_failure_of_an_op(const std::function<void()>& act, const Error& expected) {
  for (const ToyJob& arrangement : kOthers) {
    Toy toy(arrangement);
    toy.model().blocks[2] = std::make_unique<LayerThatThrows>(*toy.model().blocks[2], act);
    try {
      toy.train(1);
      FAIL() << arrangement.name;
    } catch (const RunError& error) {
      EXPECT_EQ(error.error().code, expected.code);
      EXPECT_EQ(error.error().message, "forward block 2 micro-batch 0: " + expected.message);
    }
  }
}

TEST(Executor, WhatAnOpSaysOfItsFailureIsKept) {
  const Error own{ErrorCode::capacity, "attention wants more memory", ""};
  expect_failure_of_an_op([&] { throw RunError(own); }, own);
  expect_failure_of_an_op([] { throw std::bad_alloc(); },
                          {ErrorCode::capacity, "there is no memory left for what the op takes", ""});
  expect_failure_of_an_op([] { throw std::runtime_error("a library's own words"); },
                          {ErrorCode::io, "a library's own words", ""});
}

class LayerThatOverflows final : public ToyBlock {
 public:
  explicit LayerThatOverflows(const models::BlockProgram& like) : ToyBlock("layer", like.groups()[0]) {
    slots_.assign(like.slots().begin(), like.slots().end());
  }
  void forward(const models::ForwardArgs& args) const override {
    std::fill_n(static_cast<float*>(args.output), args.batch->tokens * kToyWidth, INFINITY);
  }
};

TEST(Executor, WhatIsNotFiniteFailsOrIsReported) {
  for (const ToyJob& arrangement : kOthers) {
    Toy toy(arrangement);
    toy.model().blocks[2] = std::make_unique<LayerThatOverflows>(*toy.model().blocks[2]);
    const PhaseResult result = toy.step(WhenNotFinite::is_reported);
    ASSERT_TRUE(result.bad_output) << arrangement.name;
    EXPECT_EQ(result.bad_output->message, "the output of block layer is not finite (micro-batch 1 of step 1)");
    try {
      toy.step(WhenNotFinite::fails);
      FAIL() << arrangement.name;
    } catch (const RunError& error) {
      EXPECT_EQ(error.error().message, result.bad_output->message);
    }
  }
}

}  // namespace
}  // namespace sluice::exec
