#include "optim/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <vector>

namespace sluice::optim {
namespace {

TEST(WorkerPool, RunsEveryElementOnceThenDoneOnce) {
  std::vector<std::atomic<int>> seen(100'003);
  std::atomic<int> done{0};
  {
    WorkerPool pool(3);
    pool.submit(100'003, 1000,
                [&](int64_t begin, int64_t end) {
                  for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
                },
                [&] { ++done; });
  }
  EXPECT_EQ(done, 1);
  for (const auto& count : seen) ASSERT_EQ(count, 1);
}

TEST(WorkerPool, RunsJobsOneAfterAnother) {
  std::vector<int> order;
  std::atomic<bool> overlapped{false};
  std::atomic<int> running{0}, current{-1};
  {
    WorkerPool pool(4);
    for (int job = 0; job < 50; ++job)
      pool.submit(40, 1,
                  [&, job](int64_t, int64_t) {
                    const int before = current.exchange(job);
                    if (before > job) overlapped = true;
                    ++running;
                  },
                  [&, job] { order.push_back(job); });
  }
  EXPECT_FALSE(overlapped);
  EXPECT_EQ(running, 2000);
  for (int job = 0; job < 50; ++job) EXPECT_EQ(order[static_cast<size_t>(job)], job);
}

}  // namespace
}  // namespace sluice::optim
