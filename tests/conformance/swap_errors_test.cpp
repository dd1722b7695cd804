// What is refused before a byte moves, and what each errno of a transfer is said to mean.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "swap/host_slab.h"
#include "swap/io_error.h"
#include "tests/conformance/swap_test.h"

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
