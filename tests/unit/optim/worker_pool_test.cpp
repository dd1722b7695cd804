#include "optim/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace sluice::optim {
namespace {

// Plain counters: with ThreadSanitizer, a body whose writes do not reach done() is an error.
TEST(WorkerPool, RunsEveryElementOnceThenDoneOnce) {
  std::vector<int> seen(100'003);
  int done = 0, unseen_at_done = 0;
  {
    WorkerPool pool(3);
    pool.submit(
        100'003, 1000,
        [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        },
        [&] {
          ++done;
          for (const int count : seen) unseen_at_done += count != 1;
        });
  }
  EXPECT_EQ(done, 1);
  EXPECT_EQ(unseen_at_done, 0);
}

TEST(WorkerPool, RangesAreFixedByTheGrain) {
  std::mutex mutex;
  std::set<std::pair<int64_t, int64_t>> ranges;
  {
    WorkerPool pool(4);
    pool.submit(
        25, 10,
        [&](int64_t begin, int64_t end) {
          const std::lock_guard lock(mutex);
          ranges.emplace(begin, end);
        },
        [] {});
  }
  EXPECT_EQ(ranges, (std::set<std::pair<int64_t, int64_t>>{{0, 10}, {10, 20}, {20, 25}}));
}

TEST(WorkerPool, RunsJobsOneAfterAnother) {
  std::vector<int> order;
  std::atomic<bool> overlapped = false;
  std::atomic<int> ranges = 0, current = -1;
  {
    WorkerPool pool(4);
    for (int job = 0; job < 50; ++job) {
      pool.submit(
          40, 1,
          [&, job](int64_t, int64_t) {
            if (current.exchange(job) > job) overlapped = true;
            ++ranges;
          },
          [&, job] {
            if (ranges != (job + 1) * 40) overlapped = true;
            order.push_back(job);
          });
    }
  }
  EXPECT_FALSE(overlapped);
  ASSERT_EQ(order.size(), 50U);
  for (int job = 0; job < 50; ++job) EXPECT_EQ(order[static_cast<size_t>(job)], job);
}

// Two ranges that each wait for the other's start end only when two threads run them.
TEST(WorkerPool, RunsRangesOfOneJobAtTheSameTime) {
  std::latch both(2), done(1);
  WorkerPool pool(2);
  EXPECT_EQ(pool.threads(), 2);
  pool.submit(
      2, 1, [&](int64_t, int64_t) { both.arrive_and_wait(); }, [&] { done.count_down(); });
  done.wait();
}

TEST(WorkerPool, DoneMaySubmitTheNextJob) {
  int jobs = 0;
  std::latch finished(1);
  WorkerPool pool(2);
  const std::function<void()> next = [&] {
    if (++jobs == 100) return finished.count_down();
    pool.submit(
        3, 1, [](int64_t, int64_t) {}, next);
  };
  pool.submit(
      3, 1, [](int64_t, int64_t) {}, next);
  finished.wait();
  EXPECT_EQ(jobs, 100);
}

TEST(WorkerPool, SeveralThreadsMaySubmit) {
  std::atomic<int64_t> elements = 0;
  std::atomic<int> done = 0;
  {
    WorkerPool pool(2);
    std::vector<std::jthread> submitters;
    for (int thread = 0; thread < 4; ++thread) {
      submitters.emplace_back([&] {
        for (int job = 0; job < 50; ++job) {
          pool.submit(
              10, 3, [&](int64_t begin, int64_t end) { elements += end - begin; }, [&] { ++done; });
        }
      });
    }
    submitters.clear();
  }
  EXPECT_EQ(elements, 4 * 50 * 10);
  EXPECT_EQ(done, 4 * 50);
}

TEST(WorkerPoolDeathTest, AnEmptyJobAborts) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  WorkerPool pool(1);
  EXPECT_DEATH(pool.submit(
                   0, 1, [](int64_t, int64_t) {}, [] {}),
               "needs elements");
}

}  // namespace
}  // namespace sluice::optim
