// What checkpoints stand on: frozen pieces keep their bytes on the drive while their extents are written anew, over
// every backend; files that checkpoints name outlive the engine.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cstring>
#include <fstream>
#include <random>

#include "swap/host_slab.h"
#include "swap/swap_engine.h"
#include "tests/conformance/swap_test.h"

namespace sluice::swap {
namespace {

constexpr int64_t kBytes = 300'001;  // no whole number of stripes, nor of pages
constexpr int64_t kRounded = 303'104;
constexpr int kExtents = 6;

struct Setting {
  const char* name;
  BackendKind backend;
  Faults faults;
};

// An engine with extents that are all written with one content at a time, told by a seed.
class Job {
 public:
  Job(const Setting& setting, std::vector<fs::path> paths, bool adopts = false) : memory_(Bytes{kRounded}) {
    SwapOptions options;
    options.backend = setting.backend;
    options.nvme_paths = std::move(paths);
    options.request_bytes = options.stripe_bytes = KiB(64);
    options.queue_depth = 8;
    options.file_name = "job.extents";
    options.adopts = adopts;
    engine_ = std::make_unique<SwapEngine>(options, wrapped(setting.faults));
  }
  SwapEngine& engine() { return *engine_; }
  const std::vector<ExtentId>& extents() const { return extents_; }

  void create(int sets_beside) {
    for (int i = 0; i < kExtents; ++i) extents_.push_back(engine_->create_extent(Bytes{kBytes}, "test"));
    engine_->reserve(Bytes{sets_beside * kExtents * kRounded}, "checkpoints");
  }
  void create_at(const std::vector<std::vector<Piece>>& places) {
    for (const auto& pieces : places) extents_.push_back(engine_->create_extent_at(Bytes{kBytes}, pieces));
  }

  static std::vector<std::byte> content(uint64_t seed, int extent) {
    std::vector<std::byte> bytes(static_cast<size_t>(kRounded));
    fill(bytes, seed * 1000 + static_cast<uint64_t>(extent));
    return bytes;
  }
  void write(uint64_t seed) {
    for (int i = 0; i < kExtents; ++i) {
      const std::vector<std::byte> bytes = content(seed, i);
      std::memcpy(memory_.memory().data(), bytes.data(), bytes.size());
      engine_->write(extents_[static_cast<size_t>(i)], memory_.memory(), 1);
      settle();
    }
  }
  void expect_read(uint64_t seed) {
    for (int i = 0; i < kExtents; ++i) {
      engine_->read(extents_[static_cast<size_t>(i)], memory_.memory(), 1);
      settle();
      EXPECT_EQ(std::memcmp(memory_.memory().data(), content(seed, i).data(), kBytes), 0) << "extent " << i;
    }
  }
  FrozenId freeze() {
    const Result<void> synced = engine_->sync();
    EXPECT_TRUE(synced.ok());
    return engine_->freeze(extents_);
  }
  std::vector<std::vector<Piece>> places() const {
    std::vector<std::vector<Piece>> all;
    for (const ExtentId id : extents_) {
      const auto pieces = engine_->pieces(id);
      all.emplace_back(pieces.begin(), pieces.end());
    }
    return all;
  }
  int64_t file_bytes(int path = 0) const { return static_cast<int64_t>(fs::file_size(engine_->file(path))); }

 private:
  void settle() {
    for (;;)
      for (const Completion& completion : engine_->wait(std::chrono::seconds(10))) {
        ASSERT_TRUE(completion.result.ok()) << completion.result.error().text();
        return;
      }
  }

  HostSlab memory_;
  std::unique_ptr<SwapEngine> engine_;
  std::vector<ExtentId> extents_;
};

// As another program reads the drive.
void expect_on_drive(const std::vector<fs::path>& files, const std::vector<std::vector<Piece>>& places, uint64_t seed) {
  for (int i = 0; i < kExtents; ++i) {
    std::vector<std::byte> bytes;
    for (const Piece& piece : places[static_cast<size_t>(i)]) {
      std::ifstream file(files[static_cast<size_t>(piece.path)], std::ios::binary);
      std::vector<char> part(static_cast<size_t>(piece.bytes));
      file.seekg(piece.offset);
      file.read(part.data(), piece.bytes);
      EXPECT_EQ(XXH3_64bits(part.data(), part.size()), piece.checksum);
      bytes.insert(bytes.end(), reinterpret_cast<std::byte*>(part.data()),
                   reinterpret_cast<std::byte*>(part.data()) + piece.bytes);
    }
    ASSERT_EQ(static_cast<int64_t>(bytes.size()), kRounded);
    EXPECT_EQ(std::memcmp(bytes.data(), Job::content(seed, i).data(), kBytes), 0) << "extent " << i;
  }
}

class Frozen : public testing::TestWithParam<Setting> {};

TEST_P(Frozen, BytesStayWhileTheirExtentsGoOnAndTheFilesDoNotGrow) {
  const Folder a, b;
  Job job(GetParam(), {a.path(), b.path()});
  job.create(/*sets_beside=*/1);
  const int64_t first = job.file_bytes(0), second = job.file_bytes(1);
  const std::vector<fs::path> files = {job.engine().file(0), job.engine().file(1)};
  job.write(1);
  std::optional<FrozenId> before;
  for (uint64_t checkpoint = 1; checkpoint <= 5; ++checkpoint) {
    const FrozenId frozen = job.freeze();
    if (before) job.engine().release(*before);
    before = frozen;
    const auto places = job.places();
    for (const uint64_t step : {1, 2}) {
      job.write(checkpoint * 10 + step);
      job.expect_read(checkpoint * 10 + step);
      expect_on_drive(files, places, checkpoint == 1 ? 1 : (checkpoint - 1) * 10 + 2);
    }
  }
  EXPECT_EQ(job.file_bytes(0), first);
  EXPECT_EQ(job.file_bytes(1), second);
}

TEST_P(Frozen, SeveralCheckpointsAreHeldAtOnce) {
  const Folder folder;
  Job job(GetParam(), {folder.path()});
  job.create(/*sets_beside=*/3);
  const int64_t bytes = job.file_bytes();
  std::vector<FrozenId> held;
  std::vector<std::vector<std::vector<Piece>>> places;
  for (uint64_t step = 1; step <= 7; ++step) {
    job.write(step);
    held.push_back(job.freeze());
    places.push_back(job.places());
    if (held.size() > 3) job.engine().release(held[held.size() - 4]);
    for (uint64_t old = step > 3 ? step - 2 : 1; old <= step; ++old)
      expect_on_drive({job.engine().file(0)}, places[old - 1], old);
  }
  EXPECT_EQ(job.file_bytes(), bytes);
}

TEST_P(Frozen, WithoutAFreezeEveryWriteStaysInPlace) {
  const Folder folder;
  Job job(GetParam(), {folder.path()});
  job.create(/*sets_beside=*/1);
  job.write(1);
  const auto places = job.places();
  job.write(2);
  const auto after = job.places();
  for (size_t i = 0; i < places.size(); ++i)
    for (size_t piece = 0; piece < places[i].size(); ++piece)
      EXPECT_EQ(after[i][piece].offset, places[i][piece].offset);
  expect_on_drive({job.engine().file(0)}, after, 2);
}

TEST_P(Frozen, AKeptFileIsAdoptedAndItsFreeSpaceUsedAgain) {
  const Folder folder;
  std::vector<std::vector<Piece>> places;
  int64_t bytes = 0;
  fs::path file;
  {
    Job job(GetParam(), {folder.path()});
    job.create(/*sets_beside=*/1);
    job.write(1);
    job.freeze();
    places = job.places();
    job.write(2);
    bytes = job.file_bytes();
    file = job.engine().file(0);
    job.engine().keep_files(true);
  }
  struct stat about {};
  ASSERT_EQ(stat(file.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600u);
  EXPECT_LT(about.st_blocks * 512, bytes) << "what no checkpoint names was not given back";
  expect_on_drive({file}, places, 1);
  {
    Job next(GetParam(), {folder.path()}, /*adopts=*/true);
    std::vector<Piece> all;
    for (const auto& pieces : places) all.insert(all.end(), pieces.begin(), pieces.end());
    const FrozenId old = next.engine().adopt(all);
    EXPECT_EQ(next.engine().held().count, kExtents * kRounded);
    next.create(/*sets_beside=*/0);
    EXPECT_EQ(next.file_bytes(), bytes) << "reserved anew beside free space";
    next.write(3);
    next.expect_read(3);
    expect_on_drive({file}, places, 1);
    const FrozenId frozen = next.freeze();
    next.engine().release(old);
    next.write(4);
    EXPECT_EQ(next.file_bytes(), bytes);
    next.engine().release(frozen);
    next.engine().keep_files(false);
  }
  EXPECT_FALSE(fs::exists(folder.path() / "sluice-swap"));
}

TEST_P(Frozen, AnExtentGoesOnWhereACheckpointInPlaceHasIt) {
  const Folder folder;
  std::vector<std::vector<Piece>> places;
  int64_t bytes = 0;
  {
    Job job(GetParam(), {folder.path()});
    job.create(/*sets_beside=*/0);
    job.write(1);
    job.freeze();
    places = job.places();
    bytes = job.file_bytes();
    job.engine().keep_files(true);
  }
  Job next(GetParam(), {folder.path()}, /*adopts=*/true);
  next.create_at(places);
  expect_on_drive({next.engine().file(0)}, places, 1);
  next.write(2);
  next.expect_read(2);
  EXPECT_EQ(next.file_bytes(), bytes);
  EXPECT_EQ(next.places()[0][0].offset, places[0][0].offset);
}

TEST_P(Frozen, AnEngineThatCannotStartLeavesWhatCheckpointsName) {
  const Folder folder;
  std::vector<std::vector<Piece>> places;
  fs::path file;
  {
    Job job(GetParam(), {folder.path()});
    job.create(/*sets_beside=*/0);
    job.write(1);
    job.freeze();
    places = job.places();
    file = job.engine().file(0);
    job.engine().keep_files(true);
  }
  SwapOptions options;
  options.nvme_paths = {folder.path()};
  options.file_name = file.filename();
  options.adopts = true;
  const auto refuses = [](std::unique_ptr<IoBackend>) -> std::unique_ptr<IoBackend> {
    throw SetupError("no backend today", "try tomorrow");
  };
  EXPECT_THROW(SwapEngine(options, refuses), SetupError);
  ASSERT_TRUE(fs::exists(file));
  expect_on_drive({file}, places, 1);
}

constexpr Faults kMisbehaves{.seed = 5, .short_transfers = 0.3, .interrupted = 0.2, .try_again = 0.2};

INSTANTIATE_TEST_SUITE_P(Backends, Frozen,
                         testing::Values(Setting{"uring", BackendKind::automatic, {}},
                                         Setting{"thread", BackendKind::thread, {}},
                                         Setting{"uring_misbehaving", BackendKind::automatic, kMisbehaves},
                                         Setting{"thread_misbehaving", BackendKind::thread, kMisbehaves}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace sluice::swap
