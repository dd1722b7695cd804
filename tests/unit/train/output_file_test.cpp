// A file of a result is written whole, or it is said why not; a full file system is waited for.
#include "runtime/train/output_file.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <sstream>
#include <thread>

#include "runtime/core/result.h"
#include "runtime/train/durable_folders.h"
#include "tests/unit/train/job_folder.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

class OutputFileTest : public JobFolder {
 protected:
  static std::string contents(const fs::path& file) {
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
  }
  template <class Act>
  static Error error_of(const Act& act) {
    try {
      act();
    } catch (const RunError& error) {
      return error.error();
    }
    return {ErrorCode::io, "it worked", ""};
  }
};

// Two small file systems' worth of patience, and what was said. Mounting takes root.
class FullDriveTest : public OutputFileTest {
 protected:
  void SetUp() override {
    OutputFileTest::SetUp();
    fs::create_directory("drive");
    if (mount("tmpfs", "drive", "tmpfs", 0, "size=1m,nr_inodes=8") != 0) GTEST_SKIP() << "mounting a tmpfs takes root";
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2("drive", MNT_DETACH);
    OutputFileTest::TearDown();
  }
  // Leaves `bytes` free.
  static void fill_but(int64_t bytes) {
    OutputFile("drive/other").reserve(Bytes{static_cast<int64_t>(fs::space("drive").available) - bytes});
  }
  SpacePatience patience(milliseconds timeout) {
    return {timeout, milliseconds(10), [this](const std::string& line) {
              said_.push_back(line);
              paused_ = true;
            }};
  }
  // Makes room once it was said that there is none.
  std::jthread make_room() {
    return std::jthread([this](const std::stop_token& stop) {
      while (!paused_ && !stop.stop_requested()) std::this_thread::sleep_for(milliseconds(5));
      std::this_thread::sleep_for(milliseconds(20));
      fs::remove("drive/other");
    });
  }

  bool mounted_ = false;
  std::vector<std::string> said_;
  std::atomic<bool> paused_ = false;
};

TEST_F(FullDriveTest, a_write_goes_on_in_the_middle_when_there_is_room_again) {
  fill_but(64 << 10);
  const std::string text(200 << 10, 'x');
  const std::jthread room = make_room();
  OutputFile file("drive/result", patience(std::chrono::minutes(1)));
  file.append(text);
  file.sync();
  EXPECT_EQ(contents("drive/result"), text);
  ASSERT_EQ(said_.size(), 2u);
  EXPECT_NE(said_[0].find("no space left on the file system " + fs::absolute("drive").string() +
                          ": drive/result needs 136.00 KiB more there, 0 B are free"),
            std::string::npos)
      << said_[0];
  EXPECT_NE(said_[1].find("going on"), std::string::npos) << said_[1];
}

TEST_F(FullDriveTest, a_reservation_waits_and_keeps_nothing_meanwhile) {
  fill_but(64 << 10);
  const std::jthread room = make_room();
  OutputFile file("drive/result", patience(std::chrono::minutes(1)));
  file.reserve(KiB(200));
  EXPECT_EQ(fs::file_size("drive/result"), 200u << 10);
  EXPECT_EQ(said_.size(), 2u);
}

TEST_F(FullDriveTest, a_folder_and_a_file_wait_for_their_inodes) {
  for (int i = 0; i < 6; ++i) OutputFile("drive/other" + std::string(i == 0 ? "" : std::to_string(i)));
  OutputFile("drive/last");
  const std::jthread room = make_room();
  make_folders("drive/folder", patience(std::chrono::minutes(1)));
  EXPECT_TRUE(fs::is_directory("drive/folder"));
  EXPECT_EQ(said_.size(), 2u);
  EXPECT_EQ(error_of([] { OutputFile("drive/one more"); }).code, ErrorCode::no_space);
  EXPECT_EQ(error_of([] { make_folders("drive/one more"); }).code, ErrorCode::no_space);
}

TEST_F(FullDriveTest, patience_ends_with_need_and_place) {
  fill_but(64 << 10);
  const Error error = error_of([&] {
    OutputFile file("drive/result", patience(milliseconds(50)));
    file.append(std::string(200 << 10, 'x'));
  });
  EXPECT_EQ(error.code, ErrorCode::no_space);
  EXPECT_NE(error.message.find("drive/result needs 136.00 KiB more"), std::string::npos) << error.message;
  EXPECT_EQ(error.hint, "free space there");
}

TEST_F(FullDriveTest, a_run_that_is_asked_to_stop_does_not_wait) {
  fill_but(64 << 10);
  SpacePatience asked = patience(std::chrono::hours(1));
  asked.retry = std::chrono::hours(1);
  asked.stops = [this] { return paused_.load(); };
  const Error error = error_of([&] { OutputFile("drive/result", asked).append(std::string(200 << 10, 'x')); });
  EXPECT_EQ(error.code, ErrorCode::interrupted);
  EXPECT_NE(error.message.find("drive/result needs 136.00 KiB more"), std::string::npos) << error.message;
  EXPECT_EQ(said_.size(), 1u);
}

TEST_F(FullDriveTest, a_small_file_that_finds_no_room_is_not_replaced) {
  replace_file("drive/result", "older");
  fill_but(0);
  EXPECT_EQ(error_of([] { replace_file("drive/result", std::string(8 << 10, 'x')); }).code, ErrorCode::no_space);
  EXPECT_EQ(contents("drive/result"), "older");
  const std::jthread room = make_room();
  replace_file("drive/result", "newer", patience(std::chrono::minutes(1)));
  EXPECT_EQ(contents("drive/result"), "newer");
  for (const auto& entry : fs::directory_iterator("drive")) EXPECT_EQ(entry.path().filename(), "result");
}

TEST_F(OutputFileTest, what_a_sync_found_no_room_for_is_written_again) {
  std::vector<std::string> said;
  const SpacePatience patience{std::chrono::minutes(1), milliseconds(5),
                               [&](const std::string& line) { said.push_back(line); }};
  int written = 0;
  until_synced(patience, [&] {
    if (++written < 3) throw NoRoomAtSync("result", KiB(12), ENOSPC);
  });
  EXPECT_EQ(written, 3);
  ASSERT_EQ(said.size(), 2u);
  EXPECT_NE(said[0].find("result needs 12.00 KiB more"), std::string::npos) << said[0];
  EXPECT_NE(said[1].find("going on"), std::string::npos) << said[1];
  const Error error = error_of([] { until_synced({}, [] { throw NoRoomAtSync("result", KiB(12), EDQUOT); }); });
  EXPECT_EQ(error.code, ErrorCode::no_space);
  EXPECT_NE(error.message.find("result needs 12.00 KiB more"), std::string::npos) << error.message;
}

TEST_F(OutputFileTest, every_failure_says_what_to_do) {
  const std::vector<std::pair<std::vector<int>, std::string>> fixes = {
      {{ENOSPC, EDQUOT}, "free space on that file system"},
      {{EROFS}, "the file system is mounted read-only, often after a drive failure: look at `dmesg`"},
      {{EIO}, "the drive reports a failure: look at `dmesg` and `smartctl -a`, and replace it"},
      {{ENOENT, ENOTDIR, ENODEV, ENXIO}, "the folder has gone: was it removed, or its drive unmounted?"},
      {{EFBIG}, "raise `ulimit -f`, or use a file system that holds larger files"},
      {{EMFILE, ENFILE}, "raise `ulimit -n`"},
      {{EACCES, EPERM}, "check the folder's permissions and the drive"}};
  for (const auto& [errors, fix] : fixes)
    for (const int failed : errors) {
      const Error error = error_of([&] { throw_file_error("result", "write", failed); });
      EXPECT_EQ(error.message, std::string("result: write: ") + std::strerror(failed));
      EXPECT_EQ(error.hint, fix) << error.message;
      EXPECT_EQ(error.code == ErrorCode::no_space, failed == ENOSPC || failed == EDQUOT) << error.message;
    }
}

TEST_F(OutputFileTest, a_copy_has_the_bytes_and_their_sums) {
  const std::string text((3 << 20) + 5, 'x');
  write("from", text);
  const FileSums sums = write_copy("from", "to");
  EXPECT_EQ(contents("to"), text);
  EXPECT_EQ(to_json({{"copy", sums}}), to_json({{"copy", sums_of(text)}}));
}

TEST_F(OutputFileTest, a_copy_that_cannot_be_made_is_named_and_leaves_no_file_open) {
  const auto open_now = [] {
    const fs::directory_iterator files("/proc/self/fd");
    return std::distance(begin(files), end(files));
  };
  const auto before = open_now();
  write("file", "x");
  fs::create_directory("folder");
  EXPECT_EQ(error_of([] { write_copy("gone", "to"); }).message, "gone: open: No such file or directory");
  EXPECT_FALSE(fs::exists("to"));
  EXPECT_EQ(error_of([] { write_copy("folder", "to"); }).message, "folder: read: Is a directory");
  EXPECT_EQ(error_of([] { write_copy("file", "gone/to"); }).message, "gone/to: create: No such file or directory");
  EXPECT_EQ(error_of([] { write_copy("file", "folder"); }).message, "folder: create: Is a directory");
  EXPECT_EQ(open_now(), before);
}

TEST_F(OutputFileTest, a_rename_or_an_exchange_of_what_is_not_there_is_named) {
  write("here", "x");
  EXPECT_EQ(error_of([] { rename_in_place("gone", "there"); }).message, "there: rename: No such file or directory");
  bool can = true;  // not on every file system
  const Error error = error_of([&] { can = exchange_in_place("here", "gone"); });
  if (can) {
    EXPECT_EQ(error.message, "gone: exchange: No such file or directory");
  }
  EXPECT_EQ(contents("here"), "x");
  EXPECT_EQ(error_of([] { sync_folder("gone"); }).message, "gone: fsync: No such file or directory");
}

TEST_F(OutputFileTest, a_file_that_cannot_take_its_name_leaves_no_other) {
  fs::create_directories("taken/within");
  EXPECT_EQ(error_of([] { replace_file("taken", "text"); }).message, "taken: rename: Is a directory");
  for (const auto& entry : fs::directory_iterator("."))
    EXPECT_FALSE(entry.path().filename().string().starts_with("taken.")) << entry.path();
}

// A link may name a folder far away, or one around itself.
TEST_F(OutputFileTest, links_are_not_followed_where_folders_are_synced) {
  fs::create_directories("folder/within");
  write("folder/file", "x");
  fs::create_directory_symlink("..", "folder/within/around");
  fs::create_directory_symlink("/no/such/folder", "folder/nowhere");
  sync_folders("folder");
  EXPECT_EQ(contents("folder/file"), "x");
}

TEST_F(OutputFileTest, a_folder_that_has_gone_is_named) {
  const Error error = error_of([] { OutputFile("gone/result"); });
  EXPECT_EQ(error.message, "gone/result: create: No such file or directory");
  EXPECT_NE(error.hint.find("unmounted"), std::string::npos) << error.hint;
}

TEST_F(OutputFileTest, a_file_where_a_folder_belongs_is_named) {
  write("taken", "");
  EXPECT_EQ(error_of([] { make_folders("taken/folder"); }).message, "taken: create: File exists");
}

TEST_F(OutputFileTest, the_limit_on_file_sizes_is_an_error_and_no_signal) {
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit small { 4096, before.rlim_max };
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const Error error = error_of([] { OutputFile("result").append(std::string(10000, 'x')); });
  const Error reserved = error_of([] { OutputFile("other").reserve(KiB(8)); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(error.message, "result: write: File too large");
  EXPECT_NE(error.hint.find("ulimit -f"), std::string::npos) << error.hint;
  EXPECT_EQ(reserved.message, "other: reserve space: File too large");
  EXPECT_EQ(fs::file_size("other"), 0u) << "nothing stays of a reservation that was refused";
}

TEST_F(OutputFileTest, nothing_is_reserved_for_nothing) {
  OutputFile file("result");
  file.reserve(Bytes{0});
  file.append("x");
  EXPECT_EQ(contents("result"), "x");
}

}  // namespace
}  // namespace sluice::train
