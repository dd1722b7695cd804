// A call into a drive that blocks is named, and named again when it returns; the others are not mentioned.
#include "runtime/core/call_watch.h"

#include <gtest/gtest.h>

#include <vector>

namespace sluice {
namespace {

using std::chrono::milliseconds;

class CallWatchTest : public testing::Test {
 protected:
  void say(const std::string& line) {
    const std::lock_guard lock(mutex_);
    said_.push_back(line);
    changed_.notify_all();
  }
  bool waits_for_lines(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return said_.size() >= count; });
  }
  std::vector<std::string> said() {
    const std::lock_guard lock(mutex_);
    return said_;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> said_;
};

TEST_F(CallWatchTest, NamesACallThatBlocksAtDoublingIntervalsAndSaysWhenItReturns) {
  CallWatch watch(milliseconds(20), [this](const std::string& line) { say(line); });
  {
    const WatchedCall call(&watch, "a write to /drive/file");
    ASSERT_TRUE(waits_for_lines(2));
  }
  const std::vector<std::string> lines = said();
  for (size_t i = 0; i + 1 < lines.size(); ++i)
    EXPECT_TRUE(lines[i].starts_with("waiting: a write to /drive/file has not returned for ")) << lines[i];
  EXPECT_TRUE(lines.back().starts_with("going on: a write to /drive/file has returned, after ")) << lines.back();
}

TEST_F(CallWatchTest, FindsTheOneThatBlocksAmongOthersThatReturn) {
  CallWatch watch(milliseconds(50), [this](const std::string& line) { say(line); });
  const WatchedCall slow(&watch, "the sync of slow");
  while (said().empty()) const WatchedCall quick(&watch, "a write to quick");
  EXPECT_NE(said().front().find("the sync of slow"), std::string::npos) << said().front();
}

TEST_F(CallWatchTest, SaysNothingOfCallsThatReturn) {
  {
    CallWatch watch(std::chrono::hours(1), [this](const std::string& line) { say(line); });
    for (int i = 0; i < 1000; ++i) const WatchedCall call(&watch, "a write");
  }
  const WatchedCall unwatched(nullptr, "a write");
  EXPECT_TRUE(said().empty());
}

}  // namespace
}  // namespace sluice
