// A kernel that takes fewer requests than the ring has, as it does without memory for them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <set>
#include <vector>

#include "swap/io_backend.h"
#include "tests/conformance/swap_test.h"

namespace {

unsigned g_taken_at_once_max = ~0u;
int g_refusals = 0, g_refusal = 0;  // how many calls the kernel refuses, with which error
std::atomic<unsigned> g_taken = 0;

}  // namespace

// The linker puts this in front of liburing's own (--wrap).
extern "C" int __real_io_uring_submit(io_uring* ring);
extern "C" int __wrap_io_uring_submit(io_uring* ring) {
  if (g_refusals > 0) {
    --g_refusals;
    return g_refusal;
  }
  const unsigned end = ring->sq.sqe_tail;
  const unsigned begin = end - io_uring_sq_ready(ring);
  ring->sq.sqe_tail = std::min(end, begin + std::min(g_taken_at_once_max, end - begin));
  const int taken = __real_io_uring_submit(ring);
  ring->sq.sqe_tail = end;
  if (taken > 0) g_taken += static_cast<unsigned>(taken);
  return taken;
}

namespace sluice::swap {
namespace {

constexpr int64_t kBytes = 4096;

class UringBackendTest : public testing::Test {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<IoBackend>> made = make_uring_backend(8);
    if (!made.ok()) GTEST_SKIP() << made.error().text();
    backend_ = std::move(made.value());
    fd_ = open((folder_.path() / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_GE(fd_, 0);
  }
  void TearDown() override {
    g_taken_at_once_max = ~0u;
    g_refusals = 0;
    backend_.reset();
    if (fd_ >= 0) close(fd_);
  }
  std::vector<IoRequest> writes(int count) {
    std::vector<IoRequest> requests;
    for (int i = 0; i < count; ++i) {
      IoRequest& each = requests.emplace_back();
      each.direction = Direction::write;
      each.fd = fd_;
      each.offset = i * kBytes;
      each.memory = memory_.data();
      each.bytes = kBytes;
      each.user = static_cast<uint64_t>(i);
    }
    return requests;
  }
  // All of them are the kernel's before anybody waits for one, and all end.
  void expect_taken_and_ended(int count) {
    const unsigned before = g_taken;
    ASSERT_EQ(backend_->submit(writes(count)), static_cast<size_t>(count));
    ASSERT_EQ(g_taken - before, static_cast<unsigned>(count));
    std::set<uint64_t> ended;
    while (ended.size() < static_cast<size_t>(count))
      for (const IoOutcome& outcome : backend_->reap()) {
        EXPECT_EQ(outcome.result, kBytes);
        ended.insert(outcome.user);
      }
  }

  Folder folder_;
  std::vector<std::byte> memory_{static_cast<size_t>(kBytes)};
  std::unique_ptr<IoBackend> backend_;
  int fd_ = -1;
};

TEST_F(UringBackendTest, GivesTheKernelWhatItDidNotTakeAtOnce) {
  g_taken_at_once_max = 1;
  expect_taken_and_ended(5);
}

TEST_F(UringBackendTest, AsksAgainWhereTheKernelTakesNone) {
  for (const int refusal : {-EAGAIN, -EBUSY, -EINTR, 0}) {
    g_refusal = refusal;
    g_refusals = 3;
    expect_taken_and_ended(2);
    EXPECT_EQ(g_refusals, 0);
  }
}

TEST_F(UringBackendTest, WhatTheKernelRefusesForTooLongEnds) {
  Result<std::unique_ptr<IoBackend>> made = make_uring_backend(8, std::chrono::milliseconds(3));
  ASSERT_TRUE(made.ok());
  backend_ = std::move(made.value());
  g_refusal = -EAGAIN;
  g_refusals = 1 << 30;
  for (int round = 0; round < 5; ++round) {  // the ring has less room each time, and none in the end
    const std::vector<IoRequest> requests = writes(3);
    const size_t taken = backend_->submit(requests);
    ASSERT_EQ(taken, requests.size());
    const std::vector<IoOutcome> outcomes = backend_->reap();
    ASSERT_EQ(outcomes.size(), taken);
    for (const IoOutcome& outcome : outcomes) EXPECT_EQ(outcome.result, -ENOMEM);
  }
  backend_->wake();
  EXPECT_TRUE(backend_->reap().empty()) << "woken, though nothing can listen for it in the ring";
  g_refusals = 0;
  backend_->wake();
  EXPECT_TRUE(backend_->reap().empty());
  expect_taken_and_ended(5);
}

}  // namespace
}  // namespace sluice::swap
