// A checkpoint in place of another of its name: where names can be exchanged, and where they cannot.
#include "runtime/train/checkpoint_folders.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <sstream>
#include <thread>

#include "runtime/core/result.h"
#include "runtime/train/fsck.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// The kernel refuses this thread every exchange of names from now on, as NFS does.
void refuse_exchanges() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[4])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RENAME_EXCHANGE, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{std::size(filter), filter};
  ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

class CheckpointFoldersTest : public JobFolder {
 protected:
  static void save(const std::string& content) {
    fs::create_directories("out");
    const fs::path partial = begin_checkpoint("out", 7, {});
    write(partial / kStateFile, content);
    EXPECT_EQ(commit_checkpoint("out", 7), fs::path("out/checkpoint-7"));
  }
  static std::string saved() {
    std::ostringstream text;
    text << std::ifstream(fs::path("out/checkpoint-7") / kStateFile).rdbuf();
    return text.str();
  }
  static std::vector<std::string> names() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator("out")) names.push_back(entry.path().filename());
    return names;
  }
};

TEST_F(CheckpointFoldersTest, one_takes_the_place_of_another_of_its_name) {
  save("older");
  save("newer");
  EXPECT_EQ(saved(), "newer");
  EXPECT_EQ(names(), std::vector<std::string>{"checkpoint-7"});
}

TEST_F(CheckpointFoldersTest, one_takes_the_place_of_another_where_names_cannot_be_exchanged) {
  save("older");
  fs::create_directory("out/checkpoint-7.replaced");  // left by a run that was killed behind this
  std::thread([] {
    refuse_exchanges();
    save("newer");
  }).join();
  EXPECT_EQ(saved(), "newer");
  EXPECT_EQ(names(), std::vector<std::string>{"checkpoint-7"});
}

TEST_F(CheckpointFoldersTest, one_that_was_put_aside_has_its_name_back) {
  save("older");
  fs::rename("out/checkpoint-7", "out/checkpoint-7.replaced");
  write(begin_checkpoint("out", 7, {}) / kStateFile, "newer");
  EXPECT_EQ(run_fsck("out"), 2);
  EXPECT_EQ(find_partial_checkpoints("out"), std::vector<fs::path>{"out/checkpoint-7.partial"});
  remove_partial_checkpoints("out");
  EXPECT_EQ(saved(), "older");
  EXPECT_EQ(names(), std::vector<std::string>{"checkpoint-7"});
}

TEST_F(CheckpointFoldersTest, one_whose_place_was_taken_is_left_over) {
  save("newer");
  fs::create_directory("out/checkpoint-7.replaced");
  fs::create_directory("out/mine.replaced");
  restore_replaced_checkpoints("out");
  EXPECT_EQ(find_partial_checkpoints("out"), std::vector<fs::path>{"out/checkpoint-7.replaced"});
  remove_partial_checkpoints("out");
  EXPECT_EQ(saved(), "newer");
  EXPECT_TRUE(fs::exists("out/mine.replaced"));
}

TEST_F(CheckpointFoldersTest, no_folder_has_none_to_give_their_names_back) { restore_replaced_checkpoints("nowhere"); }

}  // namespace
}  // namespace sluice::train
