// A folder in the making is its maker's alone, has its name when it is whole, and goes when its maker is gone.
#include "runtime/train/partial_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "runtime/core/result.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

class PartialFolderTest : public JobFolder {
 protected:
  static size_t count() {
    size_t partial = 0;
    for (const auto& entry : fs::directory_iterator("."))
      partial += entry.path().filename().string().starts_with("cache.partial-");
    return partial;
  }
};

// In another container, with equal numbers of processes and none of the others' to be seen.
TEST_F(PartialFolderTest, one_that_is_held_is_neither_removed_nor_used_by_another_maker) {
  const fs::path ours = PartialFolder("cache").path();
  fs::create_directory(ours);
  write(ours / "file", "theirs");
  const int lock = open(ours.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_EQ(flock(lock, LOCK_EX | LOCK_NB), 0);
  {
    PartialFolder partial("cache");
    EXPECT_NE(partial.path(), ours);
    EXPECT_TRUE(fs::is_empty(partial.path()));
    partial.publish();
  }
  EXPECT_EQ(fs::file_size(ours / "file"), 6u);
  EXPECT_TRUE(fs::is_directory("cache"));
  close(lock);
}

TEST_F(PartialFolderTest, what_a_killed_maker_has_left_is_removed) {
  const pid_t maker = fork();
  if (maker == 0) {
    const PartialFolder partial("cache");
    write(partial.path() / "file", "half");
    _exit(0);
  }
  ASSERT_EQ(waitpid(maker, nullptr, 0), maker);
  ASSERT_EQ(count(), 1u);
  const PartialFolder partial("cache");
  EXPECT_EQ(count(), 1u);
  EXPECT_TRUE(fs::is_empty(partial.path()));
}

TEST_F(PartialFolderTest, what_is_given_up_is_removed) {
  { write(PartialFolder("cache").path() / "file", "half"); }
  EXPECT_EQ(count(), 0u);
  EXPECT_FALSE(fs::exists("cache"));
}

TEST_F(PartialFolderTest, the_first_of_two_makers_gives_the_folder) {
  std::optional<PartialFolder> slow(std::in_place, "cache");
  {
    PartialFolder fast("cache");
    write(fast.path() / "file", "fast");
    fast.publish();
  }
  write(slow->path() / "file", "slower");
  slow->publish();
  slow.reset();
  EXPECT_EQ(fs::file_size("cache/file"), 4u);
  EXPECT_EQ(count(), 0u);
}

TEST_F(PartialFolderTest, one_that_somebody_has_taken_away_is_named) {
  PartialFolder partial("cache");
  fs::remove_all(partial.path());
  try {
    partial.publish();
    FAIL() << "it was renamed";
  } catch (const RunError& error) {
    EXPECT_EQ(error.error().message, partial.path().string() + " cannot be renamed to " +
                                         fs::absolute("cache").string() + ": No such file or directory");
  }
}

TEST_F(PartialFolderTest, it_is_as_open_to_others_as_any_folder) {
  fs::create_directory("plain");
  PartialFolder("cache").publish();
  EXPECT_EQ(fs::status("cache").permissions(), fs::status("plain").permissions());
}

TEST_F(PartialFolderTest, a_folder_that_cannot_be_made_is_named) {
  try {
    PartialFolder partial("gone/cache");
    FAIL() << "it was made";
  } catch (const RunError& error) {
    EXPECT_EQ(error.error().message,
              fs::absolute("gone/cache.partial-1").string() + ": create: No such file or directory");
  }
}

}  // namespace
}  // namespace sluice::train
