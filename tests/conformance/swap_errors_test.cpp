// What is refused before a byte moves, and what each errno of a transfer is said to mean.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <thread>

#include "swap/host_slab.h"
#include "swap/io_error.h"
#include "tests/conformance/swap_test.h"
#include "tests/unit/core/few_files.h"

namespace sluice::swap {
namespace {

SwapOptions threads_in(const fs::path& path) {
  SwapOptions options;
  options.backend = BackendKind::thread;
  options.nvme_paths = {path};
  return options;
}

std::string refusal_of(const fs::path& path) {
  try {
    SwapEngine engine(threads_in(path));
  } catch (const SetupError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(IoError, EveryErrnoSaysWhatToDo) {
  const std::vector<std::tuple<int, ErrorCode, const char*>> meanings = {
      {ENOSPC, ErrorCode::no_space, "free space"},
      {EDQUOT, ErrorCode::no_space, "free space"},
      {EIO, ErrorCode::io, "smartctl"},
      {EROFS, ErrorCode::io, "remounted read-only"},
      {EINVAL, ErrorCode::io, "direct I/O"},
      {ENODEV, ErrorCode::io, "check its connection"},
      {ENOMEM, ErrorCode::capacity, "offload.max_cpu"},
      {EPERM, ErrorCode::io, "dmesg"},
  };
  for (const auto& [error, code, hint] : meanings) {
    const Error said = io_error(Direction::write, "/mnt/nvme0/extents", 4096, 8192, error);
    EXPECT_EQ(said.code, code) << error;
    EXPECT_NE(said.hint.find(hint), std::string::npos) << said.hint;
    EXPECT_EQ(said.message.find("writing 8192 bytes at offset 4096 of /mnt/nvme0/extents: "), 0u) << said.message;
  }
  EXPECT_EQ(io_error(Direction::read, "x", 0, 1, EIO).message.find("reading "), 0u);
}

TEST(SwapFolder, APlantedLinkIsNotFollowed) {
  const Folder folder, victim;
  fs::create_directory_symlink(victim.path(), folder.path() / "sluice-swap");
  EXPECT_NE(refusal_of(folder.path()).find("sluice-swap is no folder of your own"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(victim.path()));
}

TEST(SwapFolder, APlantedLockFileIsNotFollowed) {
  const Folder folder, victim;
  fs::create_directory(folder.path() / "sluice-swap");
  fs::create_symlink(victim.path() / "file", folder.path() / "sluice-swap" / "owner");
  EXPECT_NE(refusal_of(folder.path()).find("cannot create "), std::string::npos);
  EXPECT_TRUE(fs::is_empty(victim.path()));
}

TEST(SwapFolder, APlantedSwapFileIsReplacedAndItsTargetKept) {
  const Folder folder, victim;
  std::ofstream(victim.path() / "file") << "precious";
  fs::create_directory(folder.path() / "sluice-swap");
  fs::create_symlink(victim.path() / "file", folder.path() / "sluice-swap" / "extents");
  EXPECT_EQ(refusal_of(folder.path()), "accepted");
  EXPECT_EQ(fs::file_size(victim.path() / "file"), 8u);
}

TEST(SwapFolder, OneOpenToOthersIsClosed) {
  const Folder folder;
  fs::create_directory(folder.path() / "sluice-swap");
  fs::permissions(folder.path() / "sluice-swap", fs::perms::all);
  SwapEngine engine(threads_in(folder.path()));
  struct stat about {};
  ASSERT_EQ(stat((folder.path() / "sluice-swap").c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700u);
}

TEST(SwapFolder, AFileInItsPlaceIsNamed) {
  const Folder folder;
  std::ofstream(folder.path() / "file") << "";
  EXPECT_NE(refusal_of(folder.path() / "file").find("cannot create "), std::string::npos);
  fs::create_directories(folder.path() / "sluice-swap" / "extents" / "full");
  EXPECT_NE(refusal_of(folder.path()).find("sluice-swap/extents"), std::string::npos);
}

// The limit is gone when the exception is looked at: UBSan takes descriptors to see that an object is one.
std::string refusal_with_files(int more) {
  const Folder folder;
  try {
    const FewFiles few(more);
    const SwapEngine engine(threads_in(folder.path()));
  } catch (const SetupError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(SwapEngine, FilesThatTheLimitRefusesAreNamed) {
  // UBSan asks of each type once: while there are descriptors.
  EXPECT_EQ(refusal_with_files(16), "accepted");
  EXPECT_NE(refusal_with_files(0).find("sluice-swap/owner: Too many open files"), std::string::npos);
  EXPECT_NE(refusal_with_files(1).find("sluice-swap/extents: Too many open files"), std::string::npos);
  EXPECT_NE(refusal_with_files(2).find("no file descriptor left\n  fix: raise `ulimit -n`"), std::string::npos);
  EXPECT_EQ(refusal_with_files(3), "accepted");
}

TEST(SwapFolder, ALockThatFindsNoRoomIsNamed) {
  const MountedDrive drive("tmpfs", "size=4k");
  if (!drive.mounted()) GTEST_SKIP() << "mounting a tmpfs takes root";
  std::ofstream(drive.path() / "other") << std::string(4096, 'x');
  const std::string refusal = refusal_of(drive.path());
  EXPECT_NE(refusal.find("cannot write "), std::string::npos) << refusal;
  EXPECT_NE(refusal.find("owner: No space left on device\n  fix: free space"), std::string::npos) << refusal;
}

std::string refusal_to_adopt(const fs::path& path) {
  SwapOptions options = threads_in(path);
  options.adopts = true;
  try {
    SwapEngine engine(options);
  } catch (const SetupError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(SwapFile, WhatIsAdoptedIsAPlainFile) {
  const Folder folder, victim;
  const fs::path file = folder.path() / "sluice-swap" / "extents";
  fs::create_directory(file.parent_path());
  ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
  const std::string no_file = refusal_to_adopt(folder.path());
  EXPECT_NE(no_file.find("extents, which checkpoints name: it is no plain file"), std::string::npos) << no_file;
  fs::remove(file);
  std::ofstream(victim.path() / "file") << "precious";
  fs::create_symlink(victim.path() / "file", file);
  const std::string link = refusal_to_adopt(folder.path());
  EXPECT_NE(link.find("cannot open " + file.string() + ", which checkpoints name: Too many levels"), std::string::npos)
      << link;
  EXPECT_EQ(fs::file_size(victim.path() / "file"), 8u);
}

TEST(SwapFile, WhatWasGivenBackToTheDriveIsReservedAgainOrRefused) {
  const MountedDrive drive("tmpfs", "size=1m");
  if (!drive.mounted()) GTEST_SKIP() << "mounting a tmpfs takes root";
  const fs::path file = drive.path() / "sluice-swap" / "extents";
  fs::create_directory(file.parent_path());
  { std::ofstream made(file); }
  fs::resize_file(file, 2 << 20);
  const std::string refusal = refusal_to_adopt(drive.path());
  EXPECT_NE(refusal.find("cannot reserve the 2.00 MiB of " + file.string() + " again: No space left"),
            std::string::npos)
      << refusal;
  fs::resize_file(file, 512 << 10);
  EXPECT_EQ(refusal_to_adopt(drive.path()), "accepted");
  struct stat about {};
  ASSERT_EQ(stat(file.c_str(), &about), 0);
  EXPECT_EQ(about.st_blocks, 0) << "nobody held it, and it kept its space";
}

TEST(SwapEngine, ASyncWhoseFolderHasGoneFails) {
  const Folder folder, elsewhere;
  SwapEngine engine(threads_in(folder.path()));
  engine.create_extent(KiB(64), "test");
  fs::rename(folder.path() / "sluice-swap", elsewhere.path() / "sluice-swap");
  const Result<void> synced = engine.sync();
  ASSERT_FALSE(synced.ok());
  EXPECT_EQ(synced.error().code, ErrorCode::io);
  EXPECT_NE(synced.error().message.find("extents to the drive: No such file"), std::string::npos);
}

TEST(SwapEngine, ASourceWithoutDirectIoIsReadAllTheSame) {
  const MountedDrive drive("ramfs", "");
  if (!drive.mounted()) GTEST_SKIP() << "mounting a ramfs takes root";
  std::ofstream(drive.path() / "source") << std::string(10'000, 'x');
  const Folder folder;
  SwapEngine engine(threads_in(folder.path()));
  HostSlab in(KiB(64));
  engine.read_source(engine.open_source(drive.path() / "source"), 5000, 5000, in.memory(), 1);
  expect_ok(settle(engine, 1));
  EXPECT_EQ(in.memory()[5000 % 4096], std::byte{'x'});
}

// Requests are taken late: the thread that owns them cannot be asked meanwhile.
class LateBackend final : public IoBackend {
 public:
  explicit LateBackend(std::unique_ptr<IoBackend> inner) : inner_(std::move(inner)) {}
  size_t submit(std::span<const IoRequest> requests) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    return inner_->submit(requests);
  }
  std::vector<IoOutcome> reap() override { return inner_->reap(); }
  void wake() override { inner_->wake(); }
  Result<void> register_memory(std::span<std::byte> memory) override { return inner_->register_memory(memory); }

 private:
  std::unique_ptr<IoBackend> inner_;
};

TEST(SwapEngine, SaysWhatTheKernelHasNotEvenTaken) {
  const Folder folder;
  SwapEngine engine(threads_in(folder.path()),
                    [](std::unique_ptr<IoBackend> inner) { return std::make_unique<LateBackend>(std::move(inner)); });
  HostSlab out(KiB(64));
  engine.write(engine.create_extent(KiB(64), "test"), out.memory(), 7);
  EXPECT_TRUE(engine.wait(std::chrono::milliseconds(100)).empty());
  EXPECT_EQ(engine.waits_for(7), "which the kernel has not even taken");
  expect_ok(settle(engine, 1));
}

TEST(SwapEngine, ASourceThatIsNotThereIsNamed) {
  const Folder folder;
  SwapEngine engine(threads_in(folder.path()));
  EXPECT_THROW(engine.open_source(folder.path() / "gone"), SetupError);
}

TEST(SwapEngine, ASourceThatWasCutWhileInUseEndsItsTransfer) {
  const Folder folder;
  const fs::path file = folder.path() / "source";
  std::ofstream(file) << std::string(100'000, 'x');
  SwapEngine engine(threads_in(folder.path()));
  const SourceId source = engine.open_source(file);
  fs::resize_file(file, 4096);
  HostSlab in(KiB(128));
  engine.read_source(source, 0, 100'000, in.memory(), 1);
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(1).ok());
  EXPECT_NE(results.at(1).error().message.find("source ends at 4096"), std::string::npos);
}

TEST(SwapEngine, SaysWhatATransferWaitsFor) {
  const Folder folder;
  const Faults late{.delay_at = 0, .delay = std::chrono::milliseconds(300)};
  SwapEngine engine(threads_in(folder.path()), wrapped(late));
  HostSlab out(KiB(64));
  engine.write(engine.create_extent(KiB(64), "test"), out.memory(), 7);
  EXPECT_TRUE(engine.wait(std::chrono::milliseconds(50)).empty());
  EXPECT_EQ(engine.waits_for(7), "64.00 KiB at offset 0 of " + (folder.path() / "sluice-swap" / "extents").string());
  EXPECT_EQ(engine.waits_for(8), "queued behind other requests");
  expect_ok(settle(engine, 1));
}

TEST(SwapEngine, SaysHowManyRequestsATransferWaitsFor) {
  const Folder folder;
  SwapOptions small = threads_in(folder.path());
  small.request_bytes = KiB(64);
  // The first is not taken before the others are there: all wait behind it.
  SwapEngine engine(small, wrapped({.delay_at = 0, .delay = std::chrono::milliseconds(300)}));
  HostSlab out(KiB(256));
  engine.write(engine.create_extent(KiB(256), "test"), out.memory(), 7);
  EXPECT_TRUE(engine.wait(std::chrono::milliseconds(50)).empty());
  const std::string waits = engine.waits_for(7);
  EXPECT_TRUE(waits.starts_with("64.00 KiB at offset 0 of ")) << waits;
  expect_ok(settle(engine, 1));
}

TEST(SwapEngine, MemoryThatIsRegisteredTwiceIsSaidAndUsedAllTheSame) {
  for (const BackendKind kind : {BackendKind::automatic, BackendKind::thread}) {
    const Folder folder;
    SwapOptions options = threads_in(folder.path());
    options.backend = kind;
    SwapEngine engine(options);
    HostSlab first(KiB(64)), second(KiB(64));
    const size_t warnings = engine.warnings().size();
    engine.register_memory(first.memory());
    engine.register_memory(second.memory());
    if (engine.backend() == BackendKind::uring && engine.warnings().size() == warnings + 1) {
      EXPECT_NE(engine.warnings().back().find("64.00 KiB of host memory not registered with io_uring (memory is"),
                std::string::npos);
    } else {
      EXPECT_EQ(engine.warnings().size(), engine.backend() == BackendKind::thread ? warnings : warnings + 2);
    }
    const ExtentId extent = engine.create_extent(KiB(64), "test");
    EXPECT_FALSE(engine.is_written(extent));
    fill(first.memory(), 4);
    engine.write(extent, first.memory(), 1);
    EXPECT_TRUE(engine.is_written(extent));
    pollfd ended{engine.event_fd(), POLLIN, 0};
    EXPECT_EQ(poll(&ended, 1, 30'000), 1) << "a completion did not show";
    expect_ok(settle(engine, 1));
    engine.read(extent, second.memory(), 2);
    expect_ok(settle(engine, 1));
    EXPECT_EQ(std::memcmp(first.memory().data(), second.memory().data(), 64 << 10), 0);
  }
}

TEST(HostSlab, MoreThanTheMachineHasIsRefusedWithTheKey) {
  try {
    HostSlab slab(GiB(int64_t{1} << 30));
    FAIL() << "an exbibyte";
  } catch (const SetupError& error) {
    EXPECT_NE(std::string(error.what()).find("offload.max_cpu"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace sluice::swap
