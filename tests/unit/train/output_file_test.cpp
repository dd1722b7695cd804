// A file of a result is written whole, or it is said why not; a full file system is waited for.
#include "runtime/train/output_file.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
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
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(error.message, "result: write: File too large");
  EXPECT_NE(error.hint.find("ulimit -f"), std::string::npos) << error.hint;
}

}  // namespace
}  // namespace sluice::train
