// One run per output_dir, and the same folder until its end.
#include "runtime/train/output_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "runtime/core/result.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

class OutputFolderTest : public JobFolder {};

TEST_F(OutputFolderTest, a_second_owner_is_refused_and_told_who_the_first_is) {
  OutputFolder first("out");
  first.make_and_lock();
  OutputFolder second("out");
  try {
    second.lock_if_there();
    FAIL() << "two runs in one folder";
  } catch (const SetupError& error) {
    EXPECT_EQ(error.error().message, "output_dir out is in use by process " + std::to_string(getpid()));
  }
  EXPECT_TRUE(fs::is_empty("out")) << "the lock leaves no file";
}

TEST_F(OutputFolderTest, the_lock_goes_with_its_owner) {
  { OutputFolder("out").make_and_lock(); }
  OutputFolder("out").lock_if_there();
}

TEST_F(OutputFolderTest, a_folder_that_is_not_there_yet_is_not_made) {
  OutputFolder folder("out");
  folder.lock_if_there();
  EXPECT_FALSE(fs::exists("out"));
  folder.check_in_place();
}

TEST_F(OutputFolderTest, a_folder_that_was_removed_or_replaced_is_noticed) {
  OutputFolder folder("out");
  folder.make_and_lock();
  folder.check_in_place();
  fs::rename("out", "elsewhere");
  EXPECT_THROW(folder.check_in_place(), RunError);
  fs::create_directory("out");
  EXPECT_THROW(folder.check_in_place(), RunError);
}

}  // namespace
}  // namespace sluice::train
