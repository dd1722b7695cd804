#include "runtime/train/swap_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>

#include "runtime/core/result.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checksums.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/output_file.h"
#include "swap/extent_space.h"
#include "swap/extent_store.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEnding = ".extents";
constexpr const char* kRecordEnding = ".output";

fs::path record_of(fs::path swap_file) { return swap_file.replace_extension(kRecordEnding); }

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

// Relative to the swap folder where that lies inside: a job's folder may be moved.
fs::path recorded_output(const fs::path& swap_file) {
  std::ifstream record(record_of(swap_file));
  std::string text{std::istreambuf_iterator<char>(record), {}};
  if (text.ends_with('\n')) text.pop_back();
  if (text.empty()) return {};
  const fs::path output = text;
  return output.is_absolute() ? output : (swap_file.parent_path() / output).lexically_normal();
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

SwapClaim claim_on(const fs::path& swap_file, const fs::path& output_dir) {
  if (output_dir.empty()) return SwapClaim::orphaned;  // its job never came to a checkpoint
  std::error_code failed;
  if (!fs::is_directory(output_dir, failed)) return SwapClaim::unknown;
  const std::vector<fs::path> all = find_checkpoints(output_dir);
  const bool named = std::any_of(all.begin(), all.end(), [&](const fs::path& each) { return names(each, swap_file); });
  return named ? SwapClaim::named : SwapClaim::orphaned;
}

void remove_orphans_in(const fs::path& nvme_path, const fs::path& output_dir, const fs::path& resumes_from) {
  std::error_code failed;
  if (!fs::is_directory(swap::SwapFolder::in(nvme_path), failed)) return;
  const swap::SwapFolder locked(nvme_path);
  for (const SwapLeftover& each : find_swap_files(locked.path())) {
    if (each.claim == SwapClaim::named || (!resumes_from.empty() && names(resumes_from, each.file))) continue;
    const bool own = each.output_dir == fs::absolute(output_dir).lexically_normal();
    if (each.claim == SwapClaim::unknown && !own) {
      std::fprintf(stderr,
                   "note: %s (%s) belongs to %s, which is not there; it is kept. If that job is gone for good, remove "
                   "the file\n",
                   each.file.c_str(), to_string(each.bytes).c_str(), each.output_dir.c_str());
      continue;
    }
    if (!each.output_dir.empty())
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
    const fs::path output = recorded_output(entry.path());
    found.push_back({entry.path(), output, allocated(entry.path()), claim_on(entry.path(), output)});
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.file < b.file; });
  return found;
}

void record_owner(const fs::path& swap_file, const fs::path& output_dir, const SpacePatience& patience) {
  const fs::path folder = fs::weakly_canonical(swap_file.parent_path()), output = fs::weakly_canonical(output_dir);
  const fs::path inside = folder.lexically_relative(output);
  const bool moves_along = !inside.empty() && *inside.begin() != "..";
  const fs::path named = moves_along ? output.lexically_relative(folder) : fs::absolute(output_dir).lexically_normal();
  until_synced(patience, [&] {
    write_file(record_of(swap_file), named.string() + "\n", patience);
    fs::permissions(record_of(swap_file), fs::perms::owner_read | fs::perms::owner_write);
    sync_folder(swap_file.parent_path(), patience);
  });
}

void remove_record(const fs::path& swap_file) {
  std::error_code ignored;
  fs::remove(record_of(swap_file), ignored);
}

void remove_swap_file(const fs::path& swap_file) {
  std::error_code ignored;
  fs::remove(swap_file, ignored);
  remove_record(swap_file);
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
    if (!name.empty()) place.file_name = name;
    if (!name.empty() && same_file(each.folder, resumes_from)) break;
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
