#include "runtime/exec/device.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

#include "runtime/exec/op_board.h"

namespace sluice::exec {
namespace {

TEST(OpBoard, WaitsForAllAndOnlyThose) {
  OpBoard board;
  board.reset(4);
  board.end(0);
  EXPECT_TRUE(board.wait(std::array{0}));
  std::atomic<bool> passed = false;
  std::thread waiter([&] {
    EXPECT_TRUE(board.wait(std::array{0, 1, 3}));
    passed = true;
  });
  board.end(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(passed);
  board.end(3);
  waiter.join();
  EXPECT_TRUE(passed);
}

TEST(OpBoard, AbandoningFreesWhoeverWaitsUntilTheNextPhase) {
  OpBoard board;
  board.reset(2);
  std::thread waiter([&] { EXPECT_FALSE(board.wait(std::array{1})); });
  board.abandon();
  waiter.join();
  board.end(1);
  EXPECT_FALSE(board.wait(std::array{1}));
  board.reset(2);
  board.end(1);
  EXPECT_TRUE(board.wait(std::array{1}));
}

class ThreadDevice : public testing::Test {
 protected:
  std::vector<LaneEvent> events(size_t count) {
    std::vector<LaneEvent> all;
    while (all.size() < count)
      for (LaneEvent& event : queue_.drain()) all.push_back(std::move(event));
    return all;
  }
  std::span<int> ints() {
    const std::span<std::byte> memory = device_->memory();
    return {reinterpret_cast<int*>(memory.data()), memory.size() / sizeof(int)};
  }

  static plan::Schedule ops(size_t count) { return {"test", std::vector<plan::Op>(count)}; }

  EventQueue queue_;
  PhaseClock clock_;
  const plan::Schedule one_ = ops(1), two_ = ops(2), three_ = ops(3);
  std::unique_ptr<Device> device_ = make_thread_device({KiB(4), {}, {}}, queue_, clock_);
};

// The copy to the host is posted before the op that makes what it copies has run, and even before it is posted.
TEST_F(ThreadDevice, LanesWaitForEachOther) {
  int in = 20, out = 0;
  device_->begin_phase(three_);
  const auto post_copy = [&](plan::OpId id, Lane lane, std::vector<plan::OpId> after, void* to, const void* from) {
    device_->post_copy({id, lane, std::move(after)}, static_cast<std::byte*>(to), static_cast<const std::byte*>(from),
                       Bytes{sizeof(int)});
  };
  post_copy(2, Lane::d2h, {1}, &out, &ints()[1]);
  device_->post_compute({1, Lane::compute, {0}}, [this] {
    ints()[1] = ints()[0] + 1;
    return ComputeOutcome{7.5, {}};
  });
  post_copy(0, Lane::h2d, {}, &ints()[0], &in);
  for (const LaneEvent& event : events(3)) {
    EXPECT_FALSE(event.error);
    EXPECT_LE(event.begin_us, event.end_us);
    EXPECT_EQ(event.loss_sum, event.op == 1 ? 7.5 : 0);
  }
  EXPECT_EQ(out, 21);
}

TEST_F(ThreadDevice, WhatWaitsForAFailedOpEndsWithoutRunning) {
  device_->begin_phase(three_);
  bool ran = false;
  device_->post_copy({2, Lane::d2h, {1}}, reinterpret_cast<std::byte*>(&ran), device_->memory().data(), Bytes{1});
  device_->post_compute({0, Lane::compute, {}}, [] {
    ComputeOutcome failed;
    failed.result = Error{ErrorCode::io, "the loss is not finite", ""};
    return failed;
  });
  device_->post_compute({1, Lane::compute, {0}}, [&] {
    ran = true;
    return ComputeOutcome{};
  });
  int errors = 0;
  for (const LaneEvent& event : events(3)) errors += event.error.has_value();
  EXPECT_EQ(errors, 1);
  EXPECT_FALSE(ran);
}

// The op that it waits for will never be posted: its data could not be read.
TEST_F(ThreadDevice, WhatWaitsWhenThePhaseIsAbandonedEnds) {
  device_->begin_phase(two_);
  device_->post_compute({1, Lane::compute, {0}}, [] { return ComputeOutcome{}; });
  device_->abandon();
  EXPECT_EQ(events(1).front().op, 1);
  device_->begin_phase(one_);
  device_->post_compute({0, Lane::compute, {}}, [] { return ComputeOutcome{1, {}}; });
  EXPECT_EQ(events(1).front().loss_sum, 1);
}

}  // namespace
}  // namespace sluice::exec
