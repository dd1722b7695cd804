// Manifests, the swap files that they name, and which of those may go.
#include "runtime/train/manifest.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <fstream>
#include <iterator>
#include <random>

#include "runtime/core/result.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/fsck.h"
#include "runtime/train/output_file.h"
#include "runtime/train/swap_files.h"
#include "swap/extent_store.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPiece = 8192;

// out/checkpoint-5 with a manifest of two extents in out/sluice-swap/a.extents.
class ManifestTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "sluice-manifest-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    fs::create_directories(swap_file().parent_path());
    fs::create_directories(checkpoint());
    std::mt19937_64 random(1);
    bytes_.resize(4 * kPiece);
    for (char& byte : bytes_) byte = static_cast<char>(random());
    std::ofstream(swap_file(), std::ios::binary) << bytes_;
    write(checkpoint(), {"{\"global_step\": 5, \"manifest\": \"manifest.json\"}"});
  }
  void TearDown() override {
    fs::remove_all(folder_);
    if (!removed_later_.empty()) fs::remove_all(removed_later_);
  }

  fs::path out() const { return folder_ / "out"; }
  fs::path swap_file() const { return out() / "sluice-swap" / "a.extents"; }
  fs::path checkpoint() const { return out() / "checkpoint-5"; }

  Manifest manifest() const {
    const auto piece = [&](int64_t at) -> ManifestPiece {
      return {0, at * kPiece, kPiece, XXH3_64bits(bytes_.data() + at * kPiece, kPiece)};
    };
    Manifest manifest;
    manifest.files = {swap_file()};
    manifest.extents.push_back({"weights.disk.0", "layer.0", 0, 4000, 16'000, {}, {piece(2), piece(0)}});
    manifest.extents.push_back({"states.disk.0.0",
                                "layer.0",
                                0,
                                1000,
                                8000,
                                {{"exp_avg", "f32", 0, 1000, 0}, {"exp_avg_sq", "f32", 0, 1000, 4032}},
                                {piece(3)}});
    return manifest;
  }
  void write(const fs::path& folder, const std::string& state) const {
    fs::create_directories(folder);
    std::ofstream(folder / kManifestFile) << to_json(manifest(), folder);
    std::ofstream(folder / kStateFile) << state;
  }
  void flip(int64_t offset) const {
    std::fstream file(swap_file(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(offset);
    file.put(static_cast<char>(bytes_[static_cast<size_t>(offset)] ^ 1));
  }

  fs::path folder_, removed_later_;
  std::string bytes_;
};

TEST_F(ManifestTest, IsReadAsItWasWritten) {
  const Manifest read = read_manifest(checkpoint());
  EXPECT_EQ(to_json(read, checkpoint()), to_json(manifest(), checkpoint()));
  EXPECT_EQ(bytes_of(read), 3 * kPiece);
  EXPECT_TRUE(find_damage(read, 1).empty());
}

TEST_F(ManifestTest, OneFlippedBitIsNamedWithFileBytesAndExtent) {
  flip(2 * kPiece + 77);
  const std::vector<std::string> found = find_damage(read_manifest(checkpoint()), 5);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("a.extents is damaged: bytes 16384 to 24576, of 'weights.disk.0' (layer.0)"),
            std::string::npos)
      << found[0];
  flip(3 * kPiece);
  EXPECT_EQ(find_damage(read_manifest(checkpoint()), 5).size(), 2u);
  EXPECT_EQ(find_damage(read_manifest(checkpoint()), 1).size(), 1u);
}

TEST_F(ManifestTest, WhatNoExtentUsesMayChange) {
  flip(kPiece + 5);
  EXPECT_TRUE(find_damage(read_manifest(checkpoint()), 1).empty());
}

TEST_F(ManifestTest, AMissingOrShortSwapFileIsDamage) {
  fs::resize_file(swap_file(), 3 * kPiece);
  EXPECT_EQ(find_damage(read_manifest(checkpoint()), 5).size(), 1u);
  fs::remove(swap_file());
  const std::vector<std::string> found = find_damage(read_manifest(checkpoint()), 5);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].find("cannot be opened"), std::string::npos) << found[0];
}

TEST_F(ManifestTest, ACheckpointKnowsWhetherItsSwapFilesAreThere) {
  EXPECT_TRUE(has_swap_files(checkpoint()));
  fs::remove(swap_file());
  EXPECT_FALSE(has_swap_files(checkpoint()));
  std::ofstream(checkpoint() / kManifestFile) << "{";
  EXPECT_FALSE(has_swap_files(checkpoint()));
  fs::remove(checkpoint() / kManifestFile);
  EXPECT_TRUE(has_swap_files(checkpoint())) << "its bytes are its own";
}

TEST_F(ManifestTest, AJobsFolderCanBeMoved) {
  fs::rename(out(), folder_ / "moved");
  const Manifest moved = read_manifest(folder_ / "moved" / "checkpoint-5");
  EXPECT_TRUE(fs::equivalent(moved.files[0], folder_ / "moved" / "sluice-swap" / "a.extents"));
  EXPECT_TRUE(find_damage(moved, 1).empty());
}

TEST_F(ManifestTest, WhatItCannotMeanIsRefusedByName) {
  const auto refuses = [&](const std::string& from, const std::string& to, const std::string& named) {
    std::string text = to_json(manifest(), checkpoint());
    ASSERT_NE(text.find(from), std::string::npos) << from;
    text.replace(text.find(from), from.size(), to);
    try {
      (void)parse_manifest(text, checkpoint());
      FAIL() << "accepted: " << to;
    } catch (const SetupError& error) {
      EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("manifest.json is damaged"), std::string::npos) << error.what();
    }
  };
  refuses("sluice-manifest-1", "sluice-manifest-9", "sluice-manifest-9");
  refuses("[[0,", "[[3,", "not named");
  refuses("\"bytes\":16000", "\"bytes\":160000", "not the whole");
  refuses("16384,8192", "16380,8192", "whole pages");
  refuses("16384,8192", "-16384,8192", "no count");
  refuses("\"begin\":0,\"end\":4000", "\"begin\":4000,\"end\":4000", "empty");
  refuses("[\"f32\",0,1000,0]", "[\"f32\",0,1000]", "four values");
  refuses("[\"f32\",0,1000,0]", "\"f32\"", "four values");
  refuses("[[0,16384,", "[[16384,", "four values");
  refuses("[[0,", "[[\"0\",", "no count");
  refuses("\"begin\":0,\"end\":4000", "\"begin\":0.5,\"end\":4000", "no count");
  refuses("\"begin\":0,\"end\":4000", "\"begin\":0,\"end\":18446744073709551615", "no count");
  refuses("\"bytes\":16000", "\"bytes\":0", "empty");
  refuses("\"path\":\"/", "\"path\":\"", "no absolute path");
  const std::string digest = std::to_string(8192) + ",\"";  // the first piece's bytes, before its checksum
  refuses(digest, digest + "g", "no checksum");
  refuses(digest, digest + "0", "no checksum");
  refuses("]}\n", "]", "damaged");
}

TEST_F(ManifestTest, ASwapFileGoesWhenNoCheckpointNamesItAndNotBefore) {
  record_owner(swap_file(), out());
  const auto claim = [&] { return find_swap_files(swap_file().parent_path()).at(0).claim; };
  EXPECT_EQ(claim(), SwapClaim::named);
  remove_orphans({out()}, folder_ / "other", {});
  EXPECT_TRUE(fs::exists(swap_file()));

  mark_void(checkpoint());
  EXPECT_EQ(claim(), SwapClaim::orphaned);
  fs::remove(checkpoint() / "void");
  std::ofstream(checkpoint() / kManifestFile) << "{";
  EXPECT_EQ(claim(), SwapClaim::named) << "a damaged manifest may name it";
  fs::remove_all(checkpoint());
  EXPECT_EQ(claim(), SwapClaim::orphaned);

  // Whoever resumes from a copy of the checkpoint still needs it.
  write(folder_ / "copy" / "checkpoint-5", "{\"global_step\": 5}");
  remove_orphans({out()}, folder_ / "other", folder_ / "copy" / "checkpoint-5");
  EXPECT_TRUE(fs::exists(swap_file()));
  remove_orphans({out()}, folder_ / "other", {});
  EXPECT_FALSE(fs::exists(swap_file()));
}

TEST_F(ManifestTest, WhatNoCheckpointNamesOfASwapFileGoesBackToTheDrive) {
  const auto allocated = [&] { return find_swap_files(swap_file().parent_path()).at(0).bytes; };
  Config config;
  config.output_dir = out();
  config.offload.nvme_path = {out()};
  const Bytes before = allocated();
  give_back_unnamed(config, checkpoint());
  EXPECT_EQ(allocated(), before - Bytes{kPiece}) << "the second of its four pieces is nobody's";
  EXPECT_TRUE(find_damage(read_manifest(checkpoint()), 1).empty());
  give_back_unnamed(config, checkpoint());
  EXPECT_EQ(allocated(), before - Bytes{kPiece});
  const swap::SwapFolder locked(out());
  EXPECT_THROW(give_back_unnamed(config, checkpoint()), SetupError) << "another run owns it";
}

TEST_F(ManifestTest, ASwapFileOfAnOutputDirThatIsNotThereIsKept) {
  const fs::path drive = folder_ / "drive", file = drive / "sluice-swap" / "b.extents";
  fs::create_directories(file.parent_path());
  fs::copy_file(swap_file(), file);
  record_owner(file, folder_ / "gone");
  remove_orphans({drive}, folder_ / "other", {});
  EXPECT_TRUE(fs::exists(file)) << "its drive may not be mounted";
  remove_orphans({drive}, folder_ / "gone", {});
  EXPECT_FALSE(fs::exists(file)) << "the job itself starts anew";
}

// A folder of another file system stands for a drive, as a mount needs root.
TEST_F(ManifestTest, ASwapFileOfTheJobIsKeptWhileAnotherFileSystemIsWhereItsOutputDirWas) {
  const fs::path mounted = "/dev/shm/sluice_manifest_test." + std::to_string(getpid());
  struct statfs here {
  }, there{};
  std::error_code refused;
  if (!fs::create_directories(mounted / "job", refused)) GTEST_SKIP() << "nothing can be made in /dev/shm";
  removed_later_ = mounted;
  ASSERT_TRUE(statfs(folder_.c_str(), &here) == 0 && statfs(mounted.c_str(), &there) == 0);
  const auto name = [](const struct statfs& about) { return std::pair(about.f_fsid.__val[0], about.f_fsid.__val[1]); };
  if (name(here) == name(there) || name(here) == std::pair(0, 0) || name(there) == std::pair(0, 0))
    GTEST_SKIP() << folder_ << " and /dev/shm cannot be told apart";
  const fs::path drive = folder_ / "drive", file = drive / "sluice-swap" / "b.extents",
                 output = folder_ / "mnt" / "job";
  fs::create_directories(file.parent_path());
  fs::copy_file(swap_file(), file);
  fs::create_symlink(mounted, output.parent_path());
  record_owner(file, output);

  fs::remove(output.parent_path());
  for (const fs::path& empty : {output.parent_path(), output}) {
    fs::create_directory(empty);
    EXPECT_THROW(remove_orphans({drive}, output, {}), SetupError);
    remove_orphans({drive}, folder_ / "other", {});
    EXPECT_TRUE(fs::exists(file));
  }
  std::ofstream(output / "plan.yaml") << "there";
  remove_orphans({drive}, output, {});
  EXPECT_FALSE(fs::exists(file)) << "the folder is there, whatever its file system is called by now";
  fs::remove_all(output.parent_path());
  fs::create_symlink(mounted, output.parent_path());
  fs::create_directories(file.parent_path());  // which went with its last file
  fs::copy_file(swap_file(), file);
  record_owner(file, output);
  fs::remove_all(mounted / "job");
  remove_orphans({drive}, output, {});
  EXPECT_FALSE(fs::exists(file)) << "it was removed, and the job starts anew";
}

TEST_F(ManifestTest, ASwapFileOfAnOutputDirThatCannotBeLookedAtIsKept) {
  const fs::path drive = folder_ / "drive", file = drive / "sluice-swap" / "b.extents", loop = folder_ / "loop";
  fs::create_directories(file.parent_path());
  fs::copy_file(swap_file(), file);
  record_owner(file, loop / "out");
  fs::create_symlink(loop, loop);
  remove_orphans({drive}, folder_ / "other", {});
  EXPECT_TRUE(fs::exists(file));
}

TEST_F(ManifestTest, WhoseASwapFileIsIsWrittenOnce) {
  const fs::path record = out() / "sluice-swap" / "a.output";
  record_owner(swap_file(), out());
  const auto written = [&] {
    struct stat about {};
    EXPECT_EQ(stat(record.c_str(), &about), 0);
    return std::pair(about.st_ino, about.st_mtim.tv_nsec);
  };
  const auto before = written();
  record_owner(swap_file(), out());
  EXPECT_EQ(written(), before);
  record_owner(swap_file(), folder_ / "other");
  EXPECT_NE(written().first, before.first) << "it is replaced, never rewritten";
  EXPECT_EQ(fs::status(record).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(ManifestTest, ACopyOfAJobsFolderLeavesThatJobsSwapFileAlone) {
  const fs::path drive = folder_ / "drive", file = drive / "sluice-swap" / "a.extents";
  fs::create_directories(file.parent_path());
  fs::rename(swap_file(), file);
  Manifest elsewhere = manifest();
  elsewhere.files = {file};
  std::ofstream(checkpoint() / kManifestFile) << to_json(elsewhere, checkpoint());
  record_owner(file, out());
  fs::copy(out(), folder_ / "copy", fs::copy_options::recursive);

  Config config;
  config.offload.nvme_path = {drive};
  config.output_dir = folder_ / "copy";
  EXPECT_FALSE(find_swap_place(config, {}).adopts());
  EXPECT_NE(find_swap_place(config, {}).file_name, "a.extents");
  config.output_dir = out();
  EXPECT_EQ(find_swap_place(config, {}).file_name, "a.extents");
  fs::rename(out(), folder_ / "moved");
  config.output_dir = folder_ / "moved";
  EXPECT_TRUE(find_swap_place(config, {}).adopts()) << "a folder that was moved takes its file along";
}

TEST_F(ManifestTest, FsckTellsWholeFromDamagedAndWhatIsLeftOver) {
  record_owner(swap_file(), out());
  EXPECT_EQ(run_fsck(out()), 0);
  flip(3 * kPiece);
  EXPECT_EQ(run_fsck(out()), 2);
  std::ofstream(swap_file(), std::ios::binary) << bytes_;
  EXPECT_EQ(run_fsck(out()), 0);
  fs::create_directories(out() / "checkpoint-9.partial");
  EXPECT_EQ(run_fsck(out()), 2);
  remove_partial_checkpoints(out());
  EXPECT_EQ(run_fsck(out()), 0);
  std::ofstream(swap_file().parent_path() / "b.extents") << "nobody's";
  EXPECT_EQ(run_fsck(out()), 2);
  EXPECT_THROW((void)run_fsck(folder_ / "nowhere"), SetupError);
}

TEST_F(ManifestTest, ACheckpointIsCommittedInOneMomentAndRemovedInOne) {
  const fs::path partial = begin_checkpoint(out(), 7, {});
  EXPECT_TRUE(find_checkpoints(out()).size() == 1 && find_partial_checkpoints(out()).size() == 1);
  std::ofstream(partial / kStateFile) << "{}";
  EXPECT_EQ(commit_checkpoint(out(), 7), out() / "checkpoint-7");
  EXPECT_EQ(find_checkpoints(out()).size(), 2u);
  std::ofstream(begin_checkpoint(out(), 7, {}) / kStateFile) << "{\"newer\": 1}";
  commit_checkpoint(out(), 7);
  EXPECT_GT(fs::file_size(out() / "checkpoint-7" / kStateFile), 5u);
  remove_checkpoint(out() / "checkpoint-7");
  EXPECT_EQ(find_checkpoints(out()).size(), 1u);
  EXPECT_TRUE(find_partial_checkpoints(out()).empty());
}

}  // namespace
}  // namespace sluice::train
