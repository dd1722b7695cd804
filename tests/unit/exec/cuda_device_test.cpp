// The lanes of a GPU, one test per promise of device.h. Skips where there is none.
#include "runtime/exec/cuda_device.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "runtime/core/cuda_error.h"
#include "runtime/core/cuda_memory.h"
#include "swap/host_slab.h"

namespace sluice::exec {
namespace {

class CudaDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (cuda_devices(why) == 0) GTEST_SKIP() << why;
    device_ = make_cuda_device({MiB(64)}, queue_, clock_);
    EXPECT_EQ(device_->register_host(host_.memory()), "");
  }
  std::vector<LaneEvent> events(size_t count) {
    std::vector<LaneEvent> all;
    while (all.size() < count)
      for (LaneEvent& event : queue_.drain()) all.push_back(std::move(event));
    return all;
  }
  static plan::Schedule ops(size_t count) { return {"test", std::vector<plan::Op>(count)}; }
  // On the compute stream.
  void copy_on_device(std::byte* to, const std::byte* from, size_t bytes) const {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device_->compute_stream()), "test");
  }

  EventQueue queue_;
  PhaseClock clock_;
  swap::HostSlab host_{MiB(32)};
  std::unique_ptr<CudaDevice> device_;
};

// Posted backwards: the copy out waits for compute, which waits for the copy in.
TEST_F(CudaDeviceTest, LanesWaitForEachOther) {
  const auto half = static_cast<size_t>(MiB(16).count);
  const std::span<std::byte> in = host_.memory().first(half), out = host_.memory().subspan(half);
  const plan::Schedule schedule = ops(3);
  for (int round = 1; round <= 20; ++round) {
    std::memset(in.data(), round, half);
    clock_.restart();
    device_->begin_phase(schedule);
    std::byte* const at = device_->memory().data();
    device_->post_copy({2, Lane::d2h, {1}}, out.data(), at + half, Bytes{static_cast<int64_t>(half)});
    device_->post_compute({1, Lane::compute, {0}}, [=, this] {
      copy_on_device(at + half, at, half);
      return ComputeOutcome{1.5, {}, {}};
    });
    device_->post_copy({0, Lane::h2d, {}}, at, in.data(), Bytes{static_cast<int64_t>(half)});
    std::vector<LaneEvent> ended = events(3);
    std::sort(ended.begin(), ended.end(), [](const auto& a, const auto& b) { return a.op < b.op; });
    for (const LaneEvent& event : ended) {
      EXPECT_FALSE(event.error) << event.error->text();
      EXPECT_LT(event.begin_us, event.end_us);
    }
    EXPECT_LE(ended[0].end_us, ended[1].begin_us + 1);
    EXPECT_LE(ended[1].end_us, ended[2].begin_us + 1);
    EXPECT_EQ(ended[1].loss_sum, 1.5);
    ASSERT_EQ(std::memcmp(in.data(), out.data(), half), 0) << "round " << round;
  }
}

// The two directions run at once. The threads that start them may wake one after the other, but not every time.
TEST_F(CudaDeviceTest, CopiesBothWaysOverlap) {
  const auto half = static_cast<size_t>(MiB(16).count);
  const plan::Schedule schedule = ops(2);
  std::byte* const at = device_->memory().data();
  bool overlapped = false;
  for (int round = 0; round < 20 && !overlapped; ++round) {
    device_->begin_phase(schedule);
    device_->post_copy({0, Lane::h2d, {}}, at, host_.memory().data(), Bytes{static_cast<int64_t>(half)});
    device_->post_copy({1, Lane::d2h, {}}, host_.memory().data() + half, at + half, Bytes{static_cast<int64_t>(half)});
    const std::vector<LaneEvent> ended = events(2);
    overlapped = std::max(ended[0].begin_us, ended[1].begin_us) < std::min(ended[0].end_us, ended[1].end_us);
  }
  EXPECT_TRUE(overlapped);
}

// What was pinned is in two pieces, and the end of the range in none: CUDA takes no such copy as one.
TEST_F(CudaDeviceTest, CopiesCrossTheBordersOfPinnedMemory) {
  const swap::HostSlab slab(MiB(12));
  const std::span<std::byte> memory = slab.memory();
  EXPECT_EQ(device_->register_host(memory.first(MiB(4).count)), "");
  EXPECT_EQ(device_->register_host(memory.subspan(MiB(4).count, MiB(4).count)), "");
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  const std::vector<std::byte> before(memory.begin(), memory.end());
  const Bytes all = MiB(12) - KiB(4);
  const plan::Schedule schedule = ops(3);
  device_->begin_phase(schedule);
  device_->post_copy({0, Lane::h2d, {}}, device_->memory().data(), memory.data() + KiB(4).count, all);
  EXPECT_FALSE(events(1).front().error);
  std::memset(memory.data() + KiB(4).count, 0, static_cast<size_t>(all.count));
  device_->post_copy({1, Lane::d2h, {}}, memory.data() + KiB(4).count, device_->memory().data(), all);
  EXPECT_FALSE(events(1).front().error);
  EXPECT_EQ(std::memcmp(memory.data(), before.data(), before.size()), 0);

  device_->write(device_->memory().data(), memory.data() + KiB(4).count, all);  // and between phases
  std::memset(memory.data() + KiB(4).count, 0, static_cast<size_t>(all.count));
  device_->read(memory.data() + KiB(4).count, device_->memory().data(), all);
  EXPECT_EQ(std::memcmp(memory.data(), before.data(), before.size()), 0);
  device_.reset();  // before the memory that it pinned
}

TEST_F(CudaDeviceTest, WhatCountsIsAskedForOnceTheOpHasEnded) {
  const plan::Schedule schedule = ops(1);
  device_->begin_phase(schedule);
  auto* const pinned = reinterpret_cast<double*>(host_.memory().data());
  *pinned = 0;
  const double value = 2.25;
  copy_to_device(device_->memory().data(), std::as_bytes(std::span(&value, 1)), "a number");
  device_->post_compute({0, Lane::compute, {}}, [=, this] {
    check_cuda(cudaMemcpyAsync(pinned, device_->memory().data(), sizeof value, cudaMemcpyDeviceToHost,
                               device_->compute_stream()),
               "test");
    return ComputeOutcome{0, {}, [=] { return ComputeOutcome{*pinned, {}, {}}; }};
  });
  EXPECT_EQ(events(1).front().loss_sum, value);
}

TEST_F(CudaDeviceTest, AFailedBodyNamesItsOpAndStopsWhatFollows) {
  const plan::Schedule schedule = ops(2);
  device_->begin_phase(schedule);
  bool ran = false;
  device_->post_compute({0, Lane::compute, {}}, []() -> ComputeOutcome {
    throw RunError({ErrorCode::io, "broken", ""});
  });
  device_->post_compute({1, Lane::compute, {0}}, [&] {
    ran = true;
    return ComputeOutcome{};
  });
  int errors = 0;
  for (const LaneEvent& event : events(2)) {
    if (!event.error) continue;
    ++errors;
    EXPECT_NE(event.error->message.find("broken"), std::string::npos);
    EXPECT_NE(event.error->message.find(describe(schedule.ops[0])), std::string::npos);
  }
  EXPECT_EQ(errors, 1);
  EXPECT_FALSE(ran);
}

TEST_F(CudaDeviceTest, MoreThanThereIsIsRefusedWithWhatIsFree) {
  try {
    make_cuda_device({GiB(4096)}, queue_, clock_);
    FAIL() << "4 TiB of VRAM";
  } catch (const SetupError& error) {
    EXPECT_NE(std::string(error.what()).find("are free"), std::string::npos);
  }
}

// Or the next kernel that is launched would be blamed for it.
TEST_F(CudaDeviceTest, AnErrorThatWasThrownIsNotFoundAgain) {
  EXPECT_THROW(check_cuda(cudaSetDevice(4096), "a test"), RunError);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

// Without a GPU: says why, and does not throw.
TEST(CudaDevices, SayWhyThereAreNone) {
  std::string why;
  if (cuda_devices(why) == 0) {
    EXPECT_FALSE(why.empty());
  } else {
    EXPECT_TRUE(why.empty());
  }
}

}  // namespace
}  // namespace sluice::exec
