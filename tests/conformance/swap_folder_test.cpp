// The folder of swap files: one owner at a time, whoever comes and goes.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <thread>
#include <vector>

#include "runtime/core/result.h"
#include "swap/extent_store.h"
#include "tests/conformance/swap_test.h"

namespace sluice::swap {
namespace {

TEST(SwapFolder, HasOneOwnerHoweverFastTheyFollowEachOther) {
  const Folder folder;
  std::atomic<int> owners = 0, owned = 0, shared = 0;
  const auto come_and_go = [&] {
    for (int round = 0; round < 2000; ++round) {
      try {
        const SwapFolder mine(folder.path());
        if (owners++ > 0) ++shared;
        ++owned;
        std::this_thread::yield();
        --owners;
      } catch (const SetupError& refused) {
        EXPECT_NE(refused.error().message.find(" is in use by "), std::string::npos) << refused.error().message;
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back(come_and_go);
  }
  EXPECT_EQ(shared, 0) << "of " << owned << " times";
  EXPECT_GT(owned, 0);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(SwapFolder, OneThatWasRemovedLeavesTheNextOwnerItsLock) {
  const Folder folder;
  auto first = std::make_unique<SwapFolder>(folder.path());
  fs::remove_all(first->path());
  const SwapFolder next(folder.path());
  first.reset();
  EXPECT_THROW(SwapFolder{folder.path()}, SetupError);
}

// While it lives, no file of the process gets longer, and that is no signal.
class NoLongerFiles {
 public:
  NoLongerFiles() : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const struct rlimit none { 0, before_.rlim_max };
    setrlimit(RLIMIT_FSIZE, &none);
  }
  ~NoLongerFiles() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  NoLongerFiles(const NoLongerFiles&) = delete;
  NoLongerFiles& operator=(const NoLongerFiles&) = delete;

 private:
  void (*handler_)(int);
  struct rlimit before_ {};
};

TEST(SwapFolder, IsFreeAgainWhereItsOwnerCannotBeWritten) {
  const Folder folder;
  const auto refused_without_room = [&] {
    const NoLongerFiles limit;
    EXPECT_THROW(SwapFolder{folder.path()}, SetupError);
  };
  refused_without_room();
  EXPECT_NO_THROW(SwapFolder{folder.path()});
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace sluice::swap
