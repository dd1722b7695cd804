#include "runtime/train/swap_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>

#include "runtime/core/result.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checksums.h"
#include "swap/extent_space.h"
#include "swap/extent_store.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEnding = ".extents";

std::string new_name() {
  std::random_device random;
  char name[32];
  std::snprintf(name, sizeof name, "%08x%08x%s", random(), random(), kEnding);
  return name;
}

Bytes allocated(const fs::path& file) {
  struct stat about {};
  return stat(file.c_str(), &about) == 0 ? Bytes{about.st_blocks * 512} : Bytes{};
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code failed;
  return fs::equivalent(a, b, failed);
}

// A manifest that cannot be read may name it: nothing is taken from under a damaged checkpoint.
bool names(const fs::path& checkpoint, const fs::path& swap_file) {
  if (!has_manifest(checkpoint) || is_void(checkpoint)) return false;
  try {
    const Manifest manifest = read_manifest(checkpoint);
    return std::any_of(manifest.files.begin(), manifest.files.end(),
                       [&](const fs::path& file) { return same_file(file, swap_file); });
  } catch (const SetupError&) {
    return true;
  }
}

SwapClaim claim_on(const fs::path& swap_file, const SwapOwner& owner) {
  if (owner.output_dir.empty()) return SwapClaim::orphaned;  // its job never came to a checkpoint
  const SwapClaim not_there = owner.is_away() ? SwapClaim::away : SwapClaim::unknown;
  try {
    std::error_code unreachable;
    if (!fs::is_directory(owner.output_dir, unreachable)) return not_there;
    std::vector<fs::path> all = find_checkpoints(owner.output_dir);
    for (fs::path& each : find_replaced_checkpoints(owner.output_dir)) all.push_back(std::move(each));
    if (std::any_of(all.begin(), all.end(), [&](const fs::path& each) { return names(each, swap_file); }))
      return SwapClaim::named;
    // Without its drive, a mount point is an empty folder.
    return fs::is_empty(owner.output_dir) && owner.is_away() ? SwapClaim::away : SwapClaim::orphaned;
  } catch (const fs::filesystem_error&) {  // a network that has gone, a folder that others may not read
    return not_there;
  }
}

// What is known to be nobody's may go, and what was the job's own when its output_dir was removed.
bool may_go(const SwapLeftover& leftover, const fs::path& output_dir) {
  if (leftover.claim == SwapClaim::orphaned) return true;
  const bool own = leftover.owner.is(output_dir);
  if (own && leftover.claim == SwapClaim::away)
    throw SetupError(leftover.file.string() + " may hold checkpoints of " + leftover.owner.output_dir.string() +
                         ", where another file system is now",
                     "mount its drive; to start anew, remove that file");
  return own;
}

void remove_orphans_in(const fs::path& nvme_path, const fs::path& output_dir, const fs::path& resumes_from) {
  std::error_code failed;
  if (!fs::is_directory(swap::SwapFolder::in(nvme_path), failed)) return;
  const swap::SwapFolder locked(nvme_path);
  for (const SwapLeftover& each : find_swap_files(locked.path())) {
    if (each.claim == SwapClaim::named || (!resumes_from.empty() && names(resumes_from, each.file))) continue;
    const fs::path& owner = each.owner.output_dir;
    if (!may_go(each, output_dir)) {
      std::fprintf(stderr,
                   "note: %s (%s) belongs to %s, which is not there, or not its drive; it is kept. If that job is gone "
                   "for good, remove the file\n",
                   each.file.c_str(), to_string(each.bytes).c_str(), owner.c_str());
      continue;
    }
    if (!owner.empty())
      std::fprintf(stderr, "note: removed %s (%s): no checkpoint names it any more\n", each.file.c_str(),
                   to_string(each.bytes).c_str());
    remove_swap_file(each.file);
  }
}

}  // namespace

std::vector<SwapLeftover> find_swap_files(const fs::path& swap_folder) {
  std::vector<SwapLeftover> found;
  std::error_code failed;
  for (const fs::directory_entry& entry : fs::directory_iterator(swap_folder, failed)) {
    if (entry.path().extension() != kEnding) continue;
    SwapOwner owner = owner_of(entry.path());
    const SwapClaim claim = claim_on(entry.path(), owner);
    found.push_back({entry.path(), std::move(owner), allocated(entry.path()), claim});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.file < b.file; });
  return found;
}

void remove_swap_file(const fs::path& swap_file) {
  std::error_code ignored;
  fs::remove(swap_file, ignored);
  remove_owner(swap_file);
}

void remove_orphans(const std::vector<fs::path>& nvme_paths, const fs::path& output_dir, const fs::path& resumes_from) {
  for (const fs::path& path : nvme_paths) remove_orphans_in(path, output_dir, resumes_from);
}

namespace {

// What it names is going to be held: a damaged one would name what another holds, or what is not there.
Manifest whole_manifest(const fs::path& checkpoint) {
  const char* const kFix = "remove that folder: other checkpoints do not need it";
  if (fs::exists(checkpoint / kChecksumsFile)) {
    const Checksums sums = read_checksums(checkpoint / kChecksumsFile);
    if (const auto own = sums.find(kManifestFile); own != sums.end())
      if (const std::optional<std::string> damage = find_damage(checkpoint, {*own})) throw SetupError(*damage, kFix);
  }
  Manifest manifest = read_manifest(checkpoint);
  std::vector<int64_t> ends(manifest.files.size());
  for (const ManifestExtent& extent : manifest.extents)
    for (const ManifestPiece& piece : extent.pieces) {
      int64_t& end = ends[static_cast<size_t>(piece.file)];
      end = std::max(end, piece.offset + piece.bytes);
    }
  for (size_t file = 0; file < ends.size(); ++file) {
    std::error_code failed;
    const auto bytes = static_cast<int64_t>(fs::file_size(manifest.files[file], failed));
    if (!failed && bytes < ends[file])
      throw SetupError(manifest.files[file].string() + " has " + std::to_string(bytes) + " bytes and " +
                           checkpoint.string() + " needs " + std::to_string(ends[file]) + " of them",
                       kFix);
  }
  return manifest;
}

// A copy of another job's folder names that job's files, which only that job may write.
bool is_anothers(const std::string& name, const Config& config) {
  const std::vector<fs::path>& paths = config.offload.nvme_path;
  return std::any_of(paths.begin(), paths.end(), [&](const fs::path& path) {
    const fs::path file = swap::SwapFolder::in(path) / name;
    const SwapOwner owner = owner_of(file);
    return !owner.is(config.output_dir) && claim_on(file, owner) == SwapClaim::named;
  });
}

}  // namespace

SwapPlace find_swap_place(const Config& config, const fs::path& resumes_from) {
  SwapPlace place;
  const auto name_on_our_paths = [&](const Manifest& manifest) -> std::string {
    for (const fs::path& file : manifest.files)
      for (const fs::path& path : config.offload.nvme_path)
        if (same_file(file, swap::SwapFolder::in(path) / file.filename())) return file.filename();
    return {};
  };
  std::vector<HeldCheckpoint> own;
  for (const fs::path& folder : find_checkpoints(config.output_dir))
    if (has_manifest(folder) && !is_void(folder)) own.push_back({folder, whole_manifest(folder)});
  // The one that is resumed decides, else the newest.
  for (const HeldCheckpoint& each : own) {
    const std::string name = name_on_our_paths(each.manifest);
    if (name.empty() || is_anothers(name, config)) continue;
    place.file_name = name;
    if (same_file(each.folder, resumes_from)) break;
  }
  if (place.file_name.empty()) {
    place.file_name = new_name();
    return place;
  }
  for (HeldCheckpoint& each : own)
    if (!pieces_on(config.offload.nvme_path, place.file_name, each.manifest).empty())
      place.held.push_back(std::move(each));
  for (const fs::path& path : config.offload.nvme_path)
    place.allocated += allocated(swap::SwapFolder::in(path) / place.file_name);
  return place;
}

HeldPieces pieces_on(const std::vector<fs::path>& nvme_paths, const std::string& file_name, const Manifest& manifest) {
  std::vector<int> paths(manifest.files.size(), -1);
  for (size_t file = 0; file < manifest.files.size(); ++file)
    for (size_t path = 0; path < nvme_paths.size(); ++path)
      if (same_file(manifest.files[file], swap::SwapFolder::in(nvme_paths[path]) / file_name))
        paths[file] = static_cast<int>(path);
  HeldPieces pieces;
  for (const ManifestExtent& extent : manifest.extents)
    for (const ManifestPiece& piece : extent.pieces)
      if (paths[static_cast<size_t>(piece.file)] >= 0)
        pieces.emplace(paths[static_cast<size_t>(piece.file)], piece.offset, piece.bytes);
  return pieces;
}

bool has_swap_files(const fs::path& checkpoint) {
  if (!has_manifest(checkpoint)) return true;
  try {
    const Manifest manifest = read_manifest(checkpoint);
    return std::all_of(manifest.files.begin(), manifest.files.end(),
                       [](const fs::path& file) { return fs::exists(file); });
  } catch (const SetupError&) {
    return false;
  }
}

void give_back_unnamed(const Config& config, const fs::path& checkpoint) {
  const SwapPlace place = find_swap_place(config, checkpoint);
  if (!place.adopts()) return;
  swap::ExtentSpace space(config.offload.nvme_path.size());
  std::vector<std::unique_ptr<swap::SwapFile>> files;
  for (const fs::path& path : config.offload.nvme_path) {
    files.push_back(std::make_unique<swap::SwapFile>(path, place.file_name, swap::OldFile::shrink));
    space.add(static_cast<int>(files.size() - 1), 0, files.back()->bytes());
  }
  for (const HeldCheckpoint& held : place.held)
    for (const auto& [path, offset, bytes] : pieces_on(config.offload.nvme_path, place.file_name, held.manifest))
      space.hold(std::vector{swap::Piece{path, offset, bytes, 0}});
  for (size_t path = 0; path < files.size(); ++path)
    files[path]->keep(files[path]->bytes() > 0, space.free_ranges(static_cast<int>(path)));
}

}  // namespace sluice::train
