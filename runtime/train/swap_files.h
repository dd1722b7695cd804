// Swap files that outlive a process because checkpoints name pieces of them: `<job>.extents` in a drive's swap folder.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "runtime/core/units.h"
#include "runtime/train/config.h"
#include "runtime/train/manifest.h"
#include "runtime/train/swap_owner.h"

namespace sluice::train {

// `named`: by a checkpoint that is there. `unknown`: the output_dir is not there, so that nobody can say; `away`: nor
// is the file system that it lay on.
enum class SwapClaim { named, orphaned, unknown, away };

struct SwapLeftover {
  std::filesystem::path file;
  SwapOwner owner;
  Bytes bytes;  // that it takes of the drive
  SwapClaim claim = SwapClaim::orphaned;
};
// Kept files in a swap folder. Reads manifests, nothing else.
std::vector<SwapLeftover> find_swap_files(const std::filesystem::path& swap_folder);

void remove_swap_file(const std::filesystem::path& swap_file);  // and what says whose it is

// Of all drives, what no checkpoint names any more, with a note each; of the job's own output_dir also when that was
// removed. Throws SetupError: a folder is in use, or the job's own checkpoints are on a drive that is not mounted.
// What the checkpoint names that the job resumes from is kept, too (empty: none).
void remove_orphans(const std::vector<std::filesystem::path>& nvme_paths, const std::filesystem::path& output_dir,
                    const std::filesystem::path& resumes_from);

// A checkpoint of the job's own output_dir, with the swap files that it names.
struct HeldCheckpoint {
  std::filesystem::path folder;
  Manifest manifest;
};
// Where the job swaps to, and what lies there already.
struct SwapPlace {
  std::string file_name;             // in every path's swap folder
  std::vector<HeldCheckpoint> held;  // oldest first
  Bytes allocated;                   // of the drives, by files of that name
  bool adopts() const { return !held.empty(); }
};
// `resumes_from`: empty: none. Throws SetupError: a manifest is damaged.
SwapPlace find_swap_place(const Config& config, const std::filesystem::path& resumes_from);

// Of a job that has ended: what its checkpoints do not name of the swap files that hold them goes back to the drives,
// as at the end of a run that nobody killed. `checkpoint`: its last one. Throws SetupError: a folder is in use.
void give_back_unnamed(const Config& config, const std::filesystem::path& checkpoint);

// Whether all files that the checkpoint's manifest names are there; true where it has none.
bool has_swap_files(const std::filesystem::path& checkpoint);

// What of a manifest lies in files of that name on these paths, by path.
using HeldPieces = std::set<std::tuple<int, int64_t, int64_t>>;  // path, offset, bytes
HeldPieces pieces_on(const std::vector<std::filesystem::path>& nvme_paths, const std::string& file_name,
                     const Manifest& manifest);

}  // namespace sluice::train
