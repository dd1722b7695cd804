#include "runtime/train/fsck.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/core/result.h"
#include "runtime/core/units.h"
#include "runtime/core/work_line.h"
#include "runtime/train/checkpoint_folders.h"
#include "runtime/train/checksums.h"
#include "runtime/train/manifest.h"
#include "runtime/train/swap_files.h"
#include "runtime/train/trainer_state.h"
#include "swap/extent_store.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kWhole = 0, kNotWhole = 2;
// Enough to see how far the damage goes.
constexpr size_t kDamagesShown = 20;

struct Findings {
  std::vector<std::string> damages;
  int64_t bytes = 0;  // read
};

void check_files(const fs::path& folder, WorkObserver& observer, Findings& found) {
  if (!fs::exists(folder / kChecksumsFile)) {
    std::ifstream file(folder / kStateFile);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    if (parse_trainer_state(text, (folder / kStateFile).string()).contains("checksums"))
      found.damages.push_back(folder.string() + " is damaged: " + kChecksumsFile + " is missing");
    return;
  }
  const Checksums sums = read_checksums(folder / kChecksumsFile);
  for (const auto& [name, file] : sums) found.bytes += file.bytes;
  Work work(observer, "reading " + folder.filename().string(), found.bytes, WorkUnit::bytes);
  for (const auto& [name, file] : sums) {
    if (std::optional<std::string> damage = find_damage(folder, {{name, file}}, work.advance()))
      found.damages.push_back(std::move(*damage));
  }
}

void check_extents(const fs::path& folder, WorkObserver& observer, Findings& found) {
  if (!has_manifest(folder) || is_void(folder)) return;
  const Manifest manifest = read_manifest(folder);
  found.bytes += bytes_of(manifest);
  Work work(observer, "reading the swap files of " + folder.filename().string(), bytes_of(manifest), WorkUnit::bytes);
  for (std::string& damage : find_damage(manifest, kDamagesShown, work.advance()))
    found.damages.push_back(std::move(damage));
}

// Whether it is whole.
bool check_checkpoint(const fs::path& folder) {
  if (is_void(folder)) {
    std::printf("%s: void: the run went on in its place (checkpoint: in_place), and was not stopped cleanly\n",
                folder.c_str());
    return false;
  }
  Findings found;
  const auto begin = Clock::now();
  LiveLine live(STDERR_FILENO);
  Console errors(STDERR_FILENO, &live);
  WorkLine line(live, errors);
  for (const auto check : {check_files, check_extents}) try {
      check(folder, line, found);
    } catch (const SetupError& error) {
      found.damages.push_back(error.error().message);
    }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const std::string read = to_string(Bytes{found.bytes});
  const std::string rate = to_string(Bytes{static_cast<int64_t>(static_cast<double>(found.bytes) / seconds)});
  if (!found.damages.empty()) {
    std::printf("%s: DAMAGED (%s read, %s/s)\n", folder.c_str(), read.c_str(), rate.c_str());
    for (const std::string& damage : found.damages) std::printf("  %s\n", damage.c_str());
    return false;
  }
  std::printf("%s: whole%s (%s read, %s/s)\n", folder.c_str(),
              is_resumable(folder) ? "" : ", the model alone: it cannot be resumed", read.c_str(), rate.c_str());
  return true;
}

std::set<fs::path> swap_folders_of(const fs::path& output_dir, const std::vector<fs::path>& checkpoints) {
  std::set<fs::path> folders;
  std::error_code failed;
  if (fs::is_directory(swap::SwapFolder::in(output_dir), failed)) folders.insert(swap::SwapFolder::in(output_dir));
  for (const fs::path& checkpoint : checkpoints) try {
      if (!has_manifest(checkpoint)) continue;
      for (const fs::path& file : read_manifest(checkpoint).files) {
        const bool known = std::any_of(folders.begin(), folders.end(), [&](const fs::path& folder) {
          return fs::equivalent(folder, file.parent_path(), failed);
        });
        if (!known) folders.insert(file.parent_path());
      }
    } catch (const SetupError&) {
      // Reported with its checkpoint.
    }
  return folders;
}

// Whether there is nothing that nobody needs.
bool check_swap_folder(const fs::path& folder) {
  bool clean = true;
  for (const SwapLeftover& each : find_swap_files(folder)) {
    if (each.claim == SwapClaim::named) {
      std::printf("%s: %s, named by checkpoints\n", each.file.c_str(), to_string(each.bytes).c_str());
      continue;
    }
    clean = false;
    std::printf("%s: %s, %s\n", each.file.c_str(), to_string(each.bytes).c_str(),
                each.claim == SwapClaim::orphaned
                    ? "ORPHANED: no checkpoint names it. The next run there removes it, unless one is running now"
                    : ("of " + each.owner.output_dir.string() + ", which is not there, or not its drive").c_str());
  }
  return clean;
}

}  // namespace

int run_fsck(const fs::path& output_dir) {
  if (!fs::is_directory(output_dir))
    throw SetupError(output_dir.string() + " is not a folder", "give the output_dir of a job");
  const std::vector<fs::path> checkpoints = find_checkpoints(output_dir);
  bool all_whole = true;
  fs::path best;
  for (const fs::path& each : checkpoints) {
    const bool whole = check_checkpoint(each);
    all_whole &= whole;
    if (whole && is_resumable(each)) best = each;
  }
  for (const fs::path& replaced : find_replaced_checkpoints(output_dir)) {
    all_whole = false;
    std::printf("%s: put aside by a run that was killed; the next one gives it its name back\n", replaced.c_str());
  }
  for (const fs::path& partial : find_partial_checkpoints(output_dir)) {
    all_whole = false;
    std::printf("%s: left over from a run that was killed; the next one removes it\n", partial.c_str());
  }
  for (const fs::path& folder : swap_folders_of(output_dir, checkpoints)) all_whole &= check_swap_folder(folder);
  if (best.empty()) {
    std::printf("no checkpoint in %s can be resumed from\n", output_dir.c_str());
    return checkpoints.empty() && all_whole ? kWhole : kNotWhole;
  }
  std::printf("resume from %s: resume_from_checkpoint: %s\n", best.filename().c_str(), best.c_str());
  return all_whole ? kWhole : kNotWhole;
}

}  // namespace sluice::train
