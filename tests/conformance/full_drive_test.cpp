// A drive that has no room for a write that was promised its place: copy-on-write file systems, quotas, thin volumes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <thread>

#include "swap/host_slab.h"
#include "tests/conformance/swap_test.h"

namespace sluice::swap {
namespace {

using std::chrono::milliseconds;

class FullDrive : public testing::TestWithParam<BackendKind> {
 protected:
  SwapOptions options(const fs::path& path, milliseconds timeout) {
    SwapOptions options;
    options.backend = GetParam();
    options.nvme_paths = {path};
    options.request_bytes = KiB(64);
    options.queue_depth = 4;
    options.patience = {timeout, milliseconds(20), [this](const std::string& line) { said_.push_back(line); }};
    return options;
  }
  // Of the io thread: read when the engine is gone, or at rest.
  std::vector<std::string> said_;
};

TEST_P(FullDrive, PausesSaysWhatIsNeededAndGoesOnWhenThereIsRoom) {
  const Folder folder;
  const auto engine = std::make_unique<SwapEngine>(options(folder.path(), std::chrono::seconds(60)),
                                                   wrapped({.fail_at = 2, .fail_errno = ENOSPC, .fail_requests = 9}));
  HostSlab out(MiB(1)), in(MiB(1));
  fill(out.memory(), 1);
  const ExtentId extent = engine->create_extent(MiB(1), "test");
  engine->write(extent, out.memory(), 1);
  expect_ok(settle(*engine, 1));
  engine->read(extent, in.memory(), 2);
  expect_ok(settle(*engine, 1));
  EXPECT_EQ(std::memcmp(in.memory().data(), out.memory().data(), 1 << 20), 0);
  ASSERT_EQ(said_.size(), 2u) << "one line when it pauses, one when it goes on";
  // 16 requests of 64 KiB, of which two went through.
  EXPECT_NE(said_[0].find("sluice-swap/extents needs 896.00 KiB more"), std::string::npos) << said_[0];
  EXPECT_NE(said_[0].find("trying again every"), std::string::npos) << said_[0];
  EXPECT_NE(said_[1].find("going on"), std::string::npos) << said_[1];
}

TEST_P(FullDrive, ReadsGoOnWhileAWriteWaits) {
  const Folder folder;
  SwapEngine engine(options(folder.path(), std::chrono::seconds(60)),
                    wrapped({.fail_at = 1, .fail_errno = EDQUOT, .fail_requests = 1}));
  HostSlab out(KiB(64)), in(KiB(64));
  fill(out.memory(), 2);
  const ExtentId read = engine.create_extent(KiB(64), "read"), written = engine.create_extent(KiB(64), "written");
  engine.write(read, out.memory(), 1);
  expect_ok(settle(engine, 1));
  engine.write(written, out.memory(), 2);
  while (engine.counters().requests < 2) std::this_thread::yield();
  engine.read(read, in.memory(), 3);
  const auto first = settle(engine, 1);
  expect_ok(first);
  EXPECT_EQ(first.count(3), 1u) << "the read waited for the write";
  expect_ok(settle(engine, 1));
}

TEST_P(FullDrive, GivesUpWhenPatienceEndsAndSaysWhatIsNeeded) {
  const Folder folder;
  SwapEngine engine(options(folder.path(), milliseconds(100)), wrapped({.fail_at = 0, .fail_errno = ENOSPC}));
  HostSlab out(MiB(1));
  engine.write(engine.create_extent(MiB(1), "test"), out.memory(), 1);
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(1).ok());
  const Error& error = results.at(1).error();
  EXPECT_EQ(error.code, ErrorCode::no_space);
  for (const char* part :
       {"no space left on the file system", "extents needs 1.00 MiB more", "are free", "after waiting for 100.0 ms"})
    EXPECT_NE(error.message.find(part), std::string::npos) << error.message;
  EXPECT_GT(engine.counters().requests, 4) << "it did not try again";
}

TEST_P(FullDrive, StopsWaitingWhenItIsTold) {
  const Folder folder;
  SwapEngine engine(options(folder.path(), std::chrono::hours(1)), wrapped({.fail_at = 0, .fail_errno = ENOSPC}));
  HostSlab out(MiB(1));
  engine.write(engine.create_extent(MiB(1), "test"), out.memory(), 1);
  EXPECT_TRUE(engine.wait(milliseconds(100)).empty());
  EXPECT_EQ(engine.waits_for(1), "until there is room on a full drive");
  engine.stop_waiting_for_space();
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(1).ok());
  EXPECT_EQ(results.at(1).error().code, ErrorCode::no_space);
}

TEST_P(FullDrive, ARunThatIsAskedToStopDoesNotWait) {
  const Folder folder;
  std::atomic<bool> asked = false;
  SwapOptions patient = options(folder.path(), std::chrono::hours(1));
  patient.patience.retry = std::chrono::hours(1);
  patient.patience.stops = [&] { return asked.load(); };
  SwapEngine engine(patient, wrapped({.fail_at = 0, .fail_errno = ENOSPC}));
  HostSlab out(MiB(1));
  engine.write(engine.create_extent(MiB(1), "test"), out.memory(), 1);
  EXPECT_TRUE(engine.wait(milliseconds(250)).empty());
  asked = true;
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(1).ok());
  EXPECT_EQ(results.at(1).error().code, ErrorCode::interrupted);
  EXPECT_NE(results.at(1).error().message.find("extents needs 1.00 MiB more"), std::string::npos);
}

TEST_P(FullDrive, AnEngineThatWaitsCanBeDestroyed) {
  const Folder folder;
  HostSlab out(MiB(1));
  SwapEngine engine(options(folder.path(), std::chrono::hours(1)), wrapped({.fail_at = 0, .fail_errno = ENOSPC}));
  engine.write(engine.create_extent(MiB(1), "test"), out.memory(), 1);
  EXPECT_TRUE(engine.wait(milliseconds(50)).empty());
}

// The extent loses its place on the drive, as on a copy-on-write file system, and others fill it.
TEST_P(FullDrive, OfARealFileSystemIsWaitedForAndTheBytesArrive) {
  const MountedDrive drive("tmpfs", "size=4m");
  if (!drive.mounted()) GTEST_SKIP() << "mounting a tmpfs takes root";
  SwapEngine engine(options(drive.path(), std::chrono::seconds(60)));
  HostSlab out(MiB(2)), in(MiB(2));
  fill(out.memory(), 3);
  const ExtentId extent = engine.create_extent(MiB(2), "test");
  const int swap = open((drive.path() / "sluice-swap" / "extents").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(fallocate(swap, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 << 20), 0);
  close(swap);
  const fs::path other = drive.path() / "other";
  const int filler = open(other.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(posix_fallocate(filler, 0, (4 << 20) - (64 << 10)), 0);
  close(filler);
  engine.write(extent, out.memory(), 1);
  EXPECT_TRUE(engine.wait(milliseconds(100)).empty()) << "there was no room, and the write ended";
  fs::remove(other);
  expect_ok(settle(engine, 1));
  engine.read(extent, in.memory(), 2);
  expect_ok(settle(engine, 1));
  EXPECT_EQ(std::memcmp(in.memory().data(), out.memory().data(), 2 << 20), 0);
  EXPECT_NE(said_.front().find("file system " + drive.path().string() + ":"), std::string::npos) << said_.front();
}

INSTANTIATE_TEST_SUITE_P(Backends, FullDrive, testing::Values(BackendKind::automatic, BackendKind::thread),
                         [](const auto& info) { return info.param == BackendKind::thread ? "thread" : "uring"; });

}  // namespace
}  // namespace sluice::swap
