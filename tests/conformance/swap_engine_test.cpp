// One suite for every way of moving bytes: io_uring, threads, and either of them behind a backend that misbehaves.
#include "swap/swap_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>

#include "swap/faulty_backend.h"
#include "swap/host_slab.h"
#include "tests/conformance/swap_test.h"

namespace sluice::swap {
namespace {

struct Setting {
  const char* name;
  BackendKind backend;
  Faults faults;
};

class Swap : public testing::TestWithParam<Setting> {
 protected:
  SwapOptions options(std::vector<fs::path> paths) const {
    SwapOptions options;
    options.backend = GetParam().backend;
    options.nvme_paths = std::move(paths);
    options.request_bytes = KiB(64);
    options.stripe_bytes = KiB(64);
    options.queue_depth = 8;
    return options;
  }
};

TEST_P(Swap, ReadsBackExactlyWhatWasWrittenForAnyLength) {
  const Folder folder;
  SwapEngine engine(options({folder.path()}), wrapped(GetParam().faults));
  const std::vector<int64_t> lengths = {1, 7, 4095, 4096, 4097, 65536, 65537, 300'001, 5'000'000};
  HostSlab out(MiB(16)), in(MiB(16));
  fill(out.memory(), 1);
  std::vector<ExtentId> extents;
  int64_t at = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    extents.push_back(engine.create_extent(Bytes{lengths[i]}, "test"));
    engine.write(extents[i], out.memory().subspan(static_cast<size_t>(at)), i);
    at += round_up(lengths[i], 4096);
  }
  expect_ok(settle(engine, lengths.size()));
  at = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    engine.read(extents[i], in.memory().subspan(static_cast<size_t>(at)), i);
    at += round_up(lengths[i], 4096);
  }
  expect_ok(settle(engine, lengths.size()));
  at = 0;
  for (const int64_t length : lengths) {
    EXPECT_EQ(std::memcmp(in.memory().data() + at, out.memory().data() + at, static_cast<size_t>(length)), 0) << length;
    at += round_up(length, 4096);
  }
}

TEST_P(Swap, KeepsManyTransfersBothWaysApartBeyondTheQueueDepth) {
  const Folder folder;
  SwapEngine engine(options({folder.path()}), wrapped(GetParam().faults));
  constexpr size_t kExtents = 40;
  constexpr int64_t kBytes = 200'000;
  const auto room = static_cast<size_t>(round_up(kBytes, 4096));
  HostSlab out(Bytes{static_cast<int64_t>(kExtents * room)}), in(Bytes{static_cast<int64_t>(kExtents * room)});
  fill(out.memory(), 2);
  std::vector<ExtentId> extents;
  for (size_t i = 0; i < kExtents; ++i) {
    extents.push_back(engine.create_extent(Bytes{kBytes}, "test"));
    engine.write(extents[i], out.memory().subspan(i * room, room), i);
  }
  expect_ok(settle(engine, kExtents));
  // The even ones are read while the odd ones are written anew.
  for (size_t i = 0; i < kExtents; ++i) {
    if (i % 2 == 0) {
      engine.read(extents[i], in.memory().subspan(i * room, room), i);
    } else {
      engine.write(extents[i], out.memory().subspan(i * room, room), i);
    }
  }
  expect_ok(settle(engine, kExtents));
  for (size_t i = 0; i < kExtents; i += 2)
    EXPECT_EQ(std::memcmp(in.memory().data() + i * room, out.memory().data() + i * room, kBytes), 0) << i;
}

TEST_P(Swap, StripesOverSeveralPaths) {
  const Folder one, two, three;
  SwapEngine engine(options({one.path(), two.path(), three.path()}), wrapped(GetParam().faults));
  constexpr int64_t kBytes = 1'000'003;
  HostSlab out(Bytes{kBytes}), in(Bytes{kBytes});
  fill(out.memory(), 3);
  const ExtentId extent = engine.create_extent(Bytes{kBytes}, "test");
  engine.write(extent, out.memory(), 1);
  expect_ok(settle(engine, 1));
  engine.read(extent, in.memory(), 2);
  expect_ok(settle(engine, 1));
  EXPECT_EQ(std::memcmp(in.memory().data(), out.memory().data(), kBytes), 0);
  for (const Folder* folder : {&one, &two, &three})
    EXPECT_GT(fs::file_size(folder->path() / "sluice-swap" / "extents"), 300'000u);
}

TEST_P(Swap, ReadsAnyRangeOfASourceUpToItsUnalignedEnd) {
  const Folder folder;
  const fs::path file = folder.path() / "source";
  std::vector<std::byte> content(300'017);
  fill(content, 4);
  std::ofstream(file, std::ios::binary).write(reinterpret_cast<const char*>(content.data()), 300'017);
  SwapEngine engine(options({folder.path()}), wrapped(GetParam().faults));
  const SourceId source = engine.open_source(file);
  HostSlab in(MiB(1));
  for (const auto& [offset, bytes] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 1}, {5, 4095}, {4096, 4096}, {4000, 200}, {8191, 100'000}, {299'999, 18}, {0, 300'017}}) {
    engine.read_source(source, offset, bytes, in.memory(), 9);
    expect_ok(settle(engine, 1));
    EXPECT_EQ(std::memcmp(in.memory().data() + offset % 4096, content.data() + offset, static_cast<size_t>(bytes)), 0)
        << offset << " " << bytes;
  }
}

TEST_P(Swap, NamesTheFileAndOffsetOfAFailureAndKeepsGoing) {
  const Folder folder;
  Faults faults = GetParam().faults;
  faults.fail_at = 3;
  faults.fail_errno = EIO;
  SwapEngine engine(options({folder.path()}), wrapped(faults));
  HostSlab out(MiB(1));
  const ExtentId extent = engine.create_extent(MiB(1), "test");
  engine.write(extent, out.memory(), 1);
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(1).ok());
  EXPECT_NE(results.at(1).error().message.find("sluice-swap/extents"), std::string::npos);
  EXPECT_NE(results.at(1).error().message.find("offset"), std::string::npos);
  EXPECT_NE(results.at(1).error().hint.find("dmesg"), std::string::npos);
}

TEST_P(Swap, SaysNoSpaceWhenTheDriveFillsUp) {
  const Folder folder;
  Faults faults = GetParam().faults;
  faults.fail_at = 0;
  faults.fail_errno = ENOSPC;
  SwapEngine engine(options({folder.path()}), wrapped(faults));
  HostSlab out(MiB(1));
  engine.write(engine.create_extent(MiB(1), "test"), out.memory(), 1);
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(1).ok());
  EXPECT_EQ(results.at(1).error().code, ErrorCode::no_space);
}

TEST_P(Swap, FindsOneFlippedBitOnTheNextRead) {
  const Folder folder;
  Faults faults = GetParam().faults;
  faults.flip_bit_at = 2;
  SwapEngine engine(options({folder.path()}), wrapped(faults));
  HostSlab memory(MiB(1));
  fill(memory.memory(), 5);
  const ExtentId extent = engine.create_extent(MiB(1), "test");
  engine.write(extent, memory.memory(), 1);
  expect_ok(settle(engine, 1));
  engine.read(extent, memory.memory(), 2);
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(2).ok());
  EXPECT_EQ(results.at(2).error().code, ErrorCode::corrupt);
}

TEST_P(Swap, FindsBytesChangedOnTheDrive) {
  const Folder folder;
  SwapEngine engine(options({folder.path()}), wrapped(GetParam().faults));
  HostSlab memory(MiB(1));
  fill(memory.memory(), 6);
  const ExtentId extent = engine.create_extent(MiB(1), "test");
  engine.write(extent, memory.memory(), 1);
  expect_ok(settle(engine, 1));
  {
    const int fd = open((folder.path() / "sluice-swap" / "extents").c_str(), O_RDWR);
    char byte = 0;
    ASSERT_EQ(pread(fd, &byte, 1, 500'000), 1);
    byte = static_cast<char>(byte ^ 1);
    ASSERT_EQ(pwrite(fd, &byte, 1, 500'000), 1);
    fsync(fd);
    close(fd);
  }
  engine.read(extent, memory.memory(), 2);
  const auto results = settle(engine, 1);
  ASSERT_FALSE(results.at(2).ok());
  EXPECT_EQ(results.at(2).error().code, ErrorCode::corrupt);
}

TEST_P(Swap, RefusesAFolderThatAnotherOwnerUses) {
  const Folder folder;
  SwapEngine first(options({folder.path()}), wrapped(GetParam().faults));
  try {
    SwapEngine second(options({folder.path()}), wrapped(GetParam().faults));
    FAIL() << "two owners of one folder";
  } catch (const SetupError& error) {
    EXPECT_NE(std::string(error.what()).find(std::to_string(getpid())), std::string::npos) << error.what();
  }
}

TEST_P(Swap, TakesOverWhatADeadOwnerLeftAndCleansUpAfterItself) {
  const Folder folder;
  fs::create_directory(folder.path() / "sluice-swap");
  std::ofstream(folder.path() / "sluice-swap" / "owner") << "999999";
  std::ofstream(folder.path() / "sluice-swap" / "extents") << "old";
  {
    SwapEngine engine(options({folder.path()}), wrapped(GetParam().faults));
    struct stat about {};
    ASSERT_EQ(stat((folder.path() / "sluice-swap" / "extents").c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 0777, 0600u);
    EXPECT_EQ(about.st_size, 0);
  }
  EXPECT_FALSE(fs::exists(folder.path() / "sluice-swap"));
}

TEST_P(Swap, WorksWhereDirectIoIsRefused) {
  const MountedDrive drive("ramfs", "");
  if (!drive.mounted()) GTEST_SKIP() << "mounting a ramfs takes root";
  SwapEngine engine(options({drive.path()}), wrapped(GetParam().faults));
  ASSERT_FALSE(engine.warnings().empty());
  EXPECT_NE(engine.warnings().front().find("the file system refuses O_DIRECT"), std::string::npos);
  HostSlab out(KiB(256)), in(KiB(256));
  fill(out.memory(), 7);
  const ExtentId extent = engine.create_extent(KiB(200), "test");
  engine.write(extent, out.memory(), 1);
  expect_ok(settle(engine, 1));
  engine.read(extent, in.memory(), 2);
  expect_ok(settle(engine, 1));
  EXPECT_EQ(std::memcmp(in.memory().data(), out.memory().data(), 200 << 10), 0);
  expect_ok({{0, engine.sync()}});
}

TEST_P(Swap, AdoptsWhereDirectIoIsRefused) {
  const MountedDrive drive("ramfs", "");
  if (!drive.mounted()) GTEST_SKIP() << "mounting a ramfs takes root";
  SwapOptions adopting = options({drive.path()});
  adopting.adopts = true;
  HostSlab out(KiB(64)), in(KiB(64));
  fill(out.memory(), 8);
  std::vector<Piece> pieces;
  for (HostSlab* slab : {&out, &in}) {
    SwapEngine engine(adopting, wrapped(GetParam().faults));
    const ExtentId extent =
        slab == &out ? engine.create_extent(KiB(64), "test") : engine.create_extent_at(KiB(64), pieces);
    if (slab == &out) engine.write(extent, out.memory(), 1);
    if (slab == &out) expect_ok(settle(engine, 1));
    pieces.assign(engine.pieces(extent).begin(), engine.pieces(extent).end());
    engine.keep_files(true);
    engine.adopt(pieces);
  }
  std::ifstream file(drive.path() / "sluice-swap" / "extents", std::ios::binary);
  file.read(reinterpret_cast<char*>(in.memory().data()), 64 << 10);
  EXPECT_EQ(std::memcmp(in.memory().data(), out.memory().data(), 64 << 10), 0);
}

TEST_P(Swap, RefusesAnExtentLargerThanTheDriveWithNeedAndFree) {
  const Folder folder;
  SwapOptions large = options({folder.path()});
  large.request_bytes = large.stripe_bytes = GiB(1);
  SwapEngine engine(large, wrapped(GetParam().faults));
  try {
    engine.create_extent(GiB(1 << 10), "states");
    FAIL() << "a tebibyte was reserved";
  } catch (const SetupError& error) {
    EXPECT_NE(std::string(error.what()).find("states"), std::string::npos) << error.what();
  }
}

TEST_P(Swap, CutsRequestsAboveTheKernelsLimit) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer's shadow of 2 GiB takes more memory than a small machine has free";
#endif
  const Folder folder;
  SwapOptions large = options({folder.path()});
  large.request_bytes = GiB(8);
  SwapEngine engine(large, wrapped(GetParam().faults));
  // A sparse source larger than one request may be; its end carries a mark.
  const fs::path file = folder.path() / "sparse";
  { std::ofstream out(file, std::ios::binary); }
  const int64_t bytes = kRequestBytesMax + (1 << 20);
  fs::resize_file(file, static_cast<uintmax_t>(bytes));
  {
    const int fd = open(file.c_str(), O_WRONLY);
    ASSERT_EQ(pwrite(fd, "end", 3, bytes - 3), 3);
    close(fd);
  }
  HostSlab in(Bytes{bytes + 4096});
  const SourceId source = engine.open_source(file);
  engine.read_source(source, 0, bytes, in.memory(), 1);
  expect_ok(settle(engine, 1));
  EXPECT_EQ(std::memcmp(in.memory().data() + bytes - 3, "end", 3), 0);
  EXPECT_GE(engine.counters().requests, 2);
}

// What a container's seccomp profile does to io_uring.
void refuse_io_uring() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  SLUICE_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges");
  SLUICE_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0, "a seccomp filter");
}

// Somebody who may lock little memory: root is not held to the limit while it may do without one.
void limit_locked_memory(rlim_t bytes) {
  const rlimit limit{bytes, bytes};
  SLUICE_CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0, "RLIMIT_MEMLOCK");
  __user_cap_header_struct whose{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct may[2];
  SLUICE_CHECK(syscall(SYS_capget, &whose, may) == 0, "capabilities");
  may[0].effective &= ~(1u << CAP_IPC_LOCK);
  may[0].permitted &= ~(1u << CAP_IPC_LOCK);
  SLUICE_CHECK(syscall(SYS_capset, &whose, may) == 0, "fewer capabilities");
}

// Ends a death test's process.
[[noreturn]] void end_process() { std::exit(testing::Test::HasFailure() ? 1 : 0); }

// In a process of its own: writes, reads back, prints the backend and the warnings, ends with 0 when all is well.
[[noreturn]] void write_and_read_back() {
  {
    const Folder folder;
    SwapOptions options;
    options.nvme_paths = {folder.path()};
    SwapEngine engine(options);
    HostSlab written(MiB(1)), read(MiB(1));
    fill(written.memory(), 5);
    engine.register_memory(written.memory());
    const ExtentId extent = engine.create_extent(MiB(1), "test");
    engine.write(extent, written.memory(), 1);
    expect_ok(settle(engine, 1));
    engine.read(extent, read.memory(), 2);
    expect_ok(settle(engine, 1));
    EXPECT_EQ(std::memcmp(written.memory().data(), read.memory().data(), written.memory().size()), 0);
    std::fprintf(stderr, "%s\n", engine.backend() == BackendKind::uring ? "uring" : "thread");
    for (const std::string& warning : engine.warnings()) std::fprintf(stderr, "%s\n", warning.c_str());
  }
  end_process();
}

[[noreturn]] void insist_on_io_uring() {
  const Folder folder;
  SwapOptions options;
  options.backend = BackendKind::uring;
  options.nvme_paths = {folder.path()};
  try {
    SwapEngine engine(options);
  } catch (const SetupError& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  EXPECT_FALSE(fs::exists(folder.path() / "sluice-swap"));
  end_process();
}

bool uring_is_allowed() {
  const Folder folder;
  SwapOptions options;
  options.nvme_paths = {folder.path()};
  return SwapEngine(options).backend() == BackendKind::uring;
}

TEST(SwapRestrictedDeathTest, WorksOnThreadsWhereIoUringIsRefusedAndSaysSo) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT((refuse_io_uring(), write_and_read_back()), testing::ExitedWithCode(0),
              "thread\n.*io_uring.*so I/O runs on threads; .");
}

TEST(SwapRestrictedDeathTest, RefusesToRunWithoutIoUringWhereItIsAskedFor) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT((refuse_io_uring(), insist_on_io_uring()), testing::ExitedWithCode(0),
              "io_uring is refused: Operation not permitted\n  fix: allow it .*offload.io_backend: thread");
}

TEST(SwapRestrictedDeathTest, WorksUnregisteredWhereMemlockIsTooSmallAndSaysSo) {
  if (!uring_is_allowed()) GTEST_SKIP() << "io_uring is refused here";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT((limit_locked_memory(512 << 10), write_and_read_back()), testing::ExitedWithCode(0),
              "uring\n.*not registered with io_uring.*raise `ulimit -l`");
  // Kernels before 5.12 count the rings too, and refuse them.
  EXPECT_EXIT((limit_locked_memory(0), write_and_read_back()), testing::ExitedWithCode(0),
              "(thread|uring)\n.*io_uring.*raise `ulimit -l`");
}

TEST(SwapFaults, ShortAndInterruptedTransfersAreTakenUpAgain) {
  const Folder folder;
  SwapOptions options;
  options.nvme_paths = {folder.path()};
  Faults faults;
  faults.short_transfers = 0.5;
  faults.interrupted = 0.2;
  SwapEngine engine(options, wrapped(faults));
  HostSlab memory(MiB(32));
  fill(memory.memory(), 8);
  engine.write(engine.create_extent(MiB(32), "test"), memory.memory(), 1);
  expect_ok(settle(engine, 1));
  EXPECT_GT(engine.counters().resubmitted, 0);
}

TEST(SwapFaults, ADriveThatIsForeverInterruptedIsNotTriedForever) {
  for (const bool again : {false, true}) {
    const Folder folder;
    SwapOptions options;
    options.nvme_paths = {folder.path()};
    Faults faults;
    (again ? faults.try_again : faults.interrupted) = 1;
    SwapEngine engine(options, wrapped(faults));
    HostSlab memory(KiB(64));
    engine.write(engine.create_extent(KiB(64), "test"), memory.memory(), 1);
    const auto results = settle(engine, 1);
    ASSERT_FALSE(results.at(1).ok());
    EXPECT_NE(results.at(1).error().message.find(std::strerror(again ? EAGAIN : EINTR)), std::string::npos);
    EXPECT_GT(engine.counters().resubmitted, 10);
  }
}

TEST(SwapFaults, ABackendThatTakesFewRequestsGetsThemAll) {
  const Folder folder;
  SwapOptions options;
  options.nvme_paths = {folder.path()};
  options.request_bytes = KiB(64);
  SwapEngine engine(options, wrapped({.room = 3}));
  HostSlab out(MiB(2)), in(MiB(2));
  fill(out.memory(), 9);
  const ExtentId extent = engine.create_extent(MiB(2), "test");
  engine.write(extent, out.memory(), 1);
  expect_ok(settle(engine, 1));
  engine.read(extent, in.memory(), 2);
  expect_ok(settle(engine, 1));
  EXPECT_EQ(std::memcmp(in.memory().data(), out.memory().data(), 2 << 20), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Backends, Swap,
    testing::Values(Setting{"uring", BackendKind::automatic, {}}, Setting{"thread", BackendKind::thread, {}},
                    Setting{"faulty_uring",
                            BackendKind::automatic,
                            {.seed = 11, .short_transfers = 0.3, .interrupted = 0.1, .try_again = 0.1, .room = 3}},
                    Setting{"faulty_thread",
                            BackendKind::thread,
                            {.seed = 12, .short_transfers = 0.3, .interrupted = 0.1, .try_again = 0.1, .room = 3}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace sluice::swap
