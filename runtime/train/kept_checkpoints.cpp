#include "runtime/train/kept_checkpoints.h"

#include <algorithm>
#include <set>

#include "runtime/core/result.h"
#include "runtime/plan/buffer_names.h"
#include "runtime/train/checkpoint_folders.h"
#include "swap/extent_store.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

std::vector<swap::Piece> pieces_of(const HeldPieces& held) {
  std::vector<swap::Piece> pieces;
  for (const auto& [path, offset, bytes] : held) pieces.push_back({path, offset, bytes, 0});
  return pieces;
}

bool same_folder(const fs::path& a, const fs::path& b) {
  std::error_code failed;
  return !b.empty() && fs::equivalent(a, b, failed);
}

// Files of a dropped checkpoint on drives that this job does not swap to: of its runs before.
void remove_elsewhere(const Manifest& manifest, const std::vector<fs::path>& nvme_paths) {
  for (const fs::path& file : manifest.files) {
    const fs::path nvme_path = file.parent_path().parent_path();
    if (std::any_of(nvme_paths.begin(), nvme_paths.end(),
                    [&](const fs::path& path) { return same_folder(path, nvme_path); }))
      continue;
    try {
      const swap::SwapFolder locked(nvme_path);
      for (const SwapLeftover& each : find_swap_files(locked.path()))
        if (each.claim == SwapClaim::orphaned && same_folder(each.file, file)) remove_swap_file(file);
    } catch (const SetupError&) {
      // In use by another job: its next owner removes it.
    }
  }
}

void drop_checkpoint(const fs::path& folder, const Config& config, const SpacePatience& patience) {
  if (!fs::exists(folder)) return;
  std::optional<Manifest> manifest;
  try {
    if (has_manifest(folder)) manifest = read_manifest(folder);
  } catch (const SetupError&) {
    // Damaged since: what it named elsewhere waits for the next owner there.
  }
  remove_checkpoint(folder, patience);
  if (manifest) remove_elsewhere(*manifest, config.offload.nvme_path);
}

// What the plan's extent of that name would hold, in the same order: its bytes are good as they lie.
bool lies_as_planned(const ManifestExtent& extent, const Job& job) {
  const std::vector<models::ParameterGroup>& groups = job.setup.model.groups;
  const auto group = std::find_if(groups.begin(), groups.end(),
                                  [&](const models::ParameterGroup& each) { return each.name == extent.group; });
  if (group == groups.end()) return false;
  const auto g = static_cast<int>(group - groups.begin());
  const std::string name = plan::of_first_set(extent.name);
  if (extent.parts.empty())
    return name == plan::weights_extent_name(g, 0).text() && extent.begin == 0 && extent.end == group->elements;
  const int64_t each = job.planned.plan.chunk_elements, chunk = extent.begin / each;
  return name == plan::states_extent_name(g, chunk, 0).text() && extent.begin == chunk * each &&
         extent.end == std::min(extent.begin + each, group->elements) &&
         extent.parts == parts_of(job.setup.states[static_cast<size_t>(g)], extent.begin, extent.end);
}

}  // namespace

bool saves_manifests(const Config& config) { return config.adapter == Adapter::none && !config.save_only_model; }

int checkpoint_sets(const Config& config) {
  if (!saves_manifests(config) || config.checkpoint == CheckpointPlace::in_place) return 0;
  return config.save_total_limit > 0 ? static_cast<int>(std::min<int64_t>(config.save_total_limit, 1 << 20)) : 1;
}

void prune_checkpoints(const Config& config, int64_t limit, const SpacePatience& patience) {
  if (limit <= 0) return;
  const std::vector<fs::path> all = find_checkpoints(config.output_dir);
  for (size_t i = 0; i + static_cast<size_t>(limit) < all.size(); ++i) drop_checkpoint(all[i], config, patience);
}

KeptCheckpoints::KeptCheckpoints(const Job& job, const OutputFolder& output, swap::SwapEngine& swap,
                                 const SpacePatience& patience)
    : job_(job), config_(job.config), place_(job.swap_place), output_(output), swap_(swap), patience_(patience) {
  const bool in_place = config_.checkpoint == CheckpointPlace::in_place;
  HeldPieces others;
  const HeldCheckpoint* goes_on = nullptr;
  for (const HeldCheckpoint& held : place_.held) {
    if (in_place && job.resume && same_folder(held.folder, job.resume->folder)) {
      goes_on = &held;
      continue;
    }
    HeldPieces pieces = pieces_on(config_.offload.nvme_path, place_.file_name, held.manifest);
    kept_.push_back({held.folder, swap_.adopt(pieces_of(pieces))});
    others.merge(pieces);
  }
  if (goes_on != nullptr) find_places(*goes_on, others);
  const std::vector<plan::Buffer>& buffers = job.planned.layout.buffers();
  const bool uses_disk = std::any_of(buffers.begin(), buffers.end(),
                                     [](const plan::Buffer& buffer) { return is_trained_on_disk(buffer); });
  if (saves_manifests(config_) && uses_disk)
    for (size_t path = 0; path < config_.offload.nvme_path.size(); ++path)
      record_owner(swap_.file(static_cast<int>(path)), config_.output_dir, patience_);
}

void KeptCheckpoints::find_places(const HeldCheckpoint& held, const HeldPieces& others) {
  HeldPieces all = pieces_on(config_.offload.nvme_path, place_.file_name, held.manifest), unmatched = all;
  in_place_ = pieces_of(all);
  adopted_in_place_ = swap_.adopt(in_place_);
  std::map<std::string, int64_t> lengths;
  for (const plan::Buffer& buffer : job_.planned.layout.buffers())
    if (is_trained_on_disk(buffer)) lengths[buffer.name.text()] = buffer.wanted_bytes;
  for (const ManifestExtent& extent : held.manifest.extents) {
    Manifest alone{held.manifest.files, {extent}};
    const HeldPieces pieces = pieces_on(config_.offload.nvme_path, place_.file_name, alone);
    // It is the first of two sets from now on, and the one that the first step reads: what that writes lies elsewhere.
    const std::string name = plan::of_first_set(extent.name);
    const auto length = lengths.find(name);
    const bool shared =
        std::any_of(pieces.begin(), pieces.end(), [&](const auto& piece) { return others.contains(piece); });
    if (length == lengths.end() || length->second != extent.bytes || pieces.size() != extent.pieces.size() || shared ||
        !lies_as_planned(extent, job_))
      continue;
    std::vector<swap::Piece>& places = places_[name];
    for (const ManifestPiece& piece : extent.pieces)  // in their order
      for (const auto& [path, offset, bytes] : pieces)
        if (offset == piece.offset && bytes == piece.bytes &&
            swap_.file(path).filename() == held.manifest.files[static_cast<size_t>(piece.file)].filename() &&
            same_folder(swap_.file(path), held.manifest.files[static_cast<size_t>(piece.file)]))
          places.push_back({path, offset, bytes, piece.digest});
    for (const auto& piece : pieces) unmatched.erase(piece);
  }
  elsewhere_ = pieces_of(unmatched);
  for (const swap::Piece& piece : elsewhere_) beside_ += Bytes{piece.bytes};
  kept_.push_back({held.folder, std::nullopt, true});
}

void KeptCheckpoints::extents_created() {
  if (!adopted_in_place_) return;
  kept_.back().frozen = elsewhere_.empty() ? std::nullopt : std::optional(swap_.adopt(elsewhere_));
  swap_.release(*adopted_in_place_);
}

// An output_dir whose drive has gone may come back with all of them.
bool KeptCheckpoints::may_be_there(const Kept& kept) const {
  if (!output_.is_in_place()) return true;
  std::error_code failed;
  const bool there = fs::exists(kept.folder / kManifestFile, failed);
  return failed || (there && !fs::exists(kept.folder / kVoidFile, failed));
}

KeptCheckpoints::~KeptCheckpoints() {
  const bool needed = std::any_of(kept_.begin(), kept_.end(), [this](const Kept& kept) { return may_be_there(kept); });
  swap_.keep_files(needed);
  // The extents go with the engine, and what nobody holds goes back to the drive.
  if (needed && !in_place_.empty()) swap_.adopt(in_place_);
  if (needed) return;
  for (size_t path = 0; path < config_.offload.nvme_path.size(); ++path)
    remove_owner(swap_.file(static_cast<int>(path)));
}

void KeptCheckpoints::saving(const fs::path& folder, std::span<const swap::ExtentId> extents) {
  const bool in_place = config_.checkpoint == CheckpointPlace::in_place;
  in_place_.clear();
  if (in_place)
    for (const swap::ExtentId extent : extents)
      in_place_.insert(in_place_.end(), swap_.pieces(extent).begin(), swap_.pieces(extent).end());
  kept_.push_back({folder, in_place ? std::nullopt : std::optional(swap_.freeze(extents)), in_place});
}

void KeptCheckpoints::saved() {
  forget_replaced();
  keep_newest();
}

void KeptCheckpoints::renewed(const fs::path& folder, const fs::path& from) {
  if (config_.checkpoint == CheckpointPlace::in_place) {
    const auto renamed =
        std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return same_folder(kept.folder, from); });
    if (renamed != kept_.end()) {
      renamed->folder = folder;
      std::rotate(renamed, renamed + 1, kept_.end());
      forget_replaced();
    }
    remove_checkpoint(from, patience_);
  } else {
    const HeldPieces pieces = pieces_on(config_.offload.nvme_path, place_.file_name, read_manifest(folder));
    kept_.push_back({folder, swap_.adopt(pieces_of(pieces))});
    forget_replaced();
  }
  keep_newest();
}

void KeptCheckpoints::copied(const fs::path& folder) {
  if (config_.save_total_limit == 0) return;
  std::vector<fs::path> all = find_checkpoints(config_.output_dir);
  // Of a run that went on from an older one, those of later steps may still be there.
  std::erase_if(all, [&](const fs::path& each) { return same_folder(each, folder); });
  for (; all.size() + 1 > static_cast<size_t>(config_.save_total_limit); all.erase(all.begin())) {
    const auto kept = std::find_if(kept_.begin(), kept_.end(),
                                   [&](const Kept& each) { return same_folder(each.folder, all.front()); });
    drop(kept == kept_.end() ? Kept{all.front(), std::nullopt} : *kept);
    if (kept != kept_.end()) kept_.erase(kept);
  }
}

// One of the newest's name that was there before.
void KeptCheckpoints::forget_replaced() {
  for (auto kept = kept_.begin(); kept + 1 != kept_.end();) {
    const bool replaced = kept->folder.filename() == kept_.back().folder.filename();
    if (replaced && kept->frozen) swap_.release(*kept->frozen);
    kept = replaced ? kept_.erase(kept) : std::next(kept);
  }
}

void KeptCheckpoints::keep_newest() {
  const auto most = static_cast<size_t>(std::max(checkpoint_sets(config_), 1));
  while (kept_.size() > most) {
    drop(kept_.front());
    kept_.erase(kept_.begin());
  }
  drop_others();
}

void KeptCheckpoints::drop(const Kept& kept) {
  drop_checkpoint(kept.folder, config_, patience_);
  // Only now: a folder whose bytes are gone must not look whole.
  if (kept.frozen) swap_.release(*kept.frozen);
}

// Of runs whose states were in memory, or on other drives.
void KeptCheckpoints::drop_others() {
  if (config_.save_total_limit == 0) return;
  std::vector<fs::path> others = find_checkpoints(config_.output_dir);
  std::erase_if(others, [&](const fs::path& each) {
    return std::any_of(kept_.begin(), kept_.end(), [&](const Kept& kept) { return same_folder(kept.folder, each); });
  });
  while (!others.empty() && others.size() + kept_.size() > static_cast<size_t>(config_.save_total_limit)) {
    drop({others.front(), std::nullopt});
    others.erase(others.begin());
  }
}

void KeptCheckpoints::before_writing() {
  for (const Kept& kept : kept_)
    if (kept.in_place && fs::exists(kept.folder / kManifestFile) && !is_void(kept.folder))
      mark_void(kept.folder, patience_);
}

}  // namespace sluice::train
