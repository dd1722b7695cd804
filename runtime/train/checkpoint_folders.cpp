#include "runtime/train/checkpoint_folders.h"

#include <algorithm>
#include <charconv>

#include "runtime/core/result.h"
#include "runtime/train/durable_folders.h"
#include "runtime/train/output_file.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPartialEnding = ".partial";
constexpr std::string_view kRemovedEnding = ".removed.partial";
constexpr std::string_view kReplacedEnding = ".replaced";  // still whole

fs::path partial_of(const fs::path& output_dir, int64_t step) {
  return output_dir / (checkpoint_name(step) + std::string(kPartialEnding));
}

// Out of the way in one moment.
fs::path put_aside(const fs::path& checkpoint, std::string_view ending, const SpacePatience& patience) {
  fs::path aside = checkpoint;
  aside += ending;
  std::error_code failed;
  fs::remove_all(aside, failed);
  if (failed) throw_file_error(aside, "remove", failed.value());
  rename_in_place(checkpoint, aside, patience);
  return aside;
}

// Half removed, it must not have a name that gives it back its own.
void remove_for_good(const fs::path& before, const fs::path& whole) {
  fs::path removed = whole;
  removed += kRemovedEnding;
  std::error_code ignored;
  fs::remove_all(removed, ignored);
  fs::rename(before, removed, ignored);
  fs::remove_all(removed, ignored);
}

// Where what had the name before lies now; empty: nothing had.
fs::path put_in_place(const fs::path& partial, const fs::path& whole, const SpacePatience& patience) {
  fs::path before;
  if (fs::exists(whole)) {
    if (exchange_in_place(partial, whole, patience)) return partial;
    before = put_aside(whole, kReplacedEnding, patience);
  }
  try {
    rename_in_place(partial, whole, patience);
  } catch (const RunError&) {
    std::error_code failed;
    if (!before.empty()) fs::rename(before, whole, failed);
    throw;
  }
  return before;
}

std::vector<fs::path> folders_in(const fs::path& output_dir) {
  std::vector<fs::path> folders;
  if (!fs::is_directory(output_dir)) return folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(output_dir))
    if (entry.is_directory()) folders.push_back(entry.path());
  return folders;
}

// "checkpoint-7" of "checkpoint-7.partial"; empty: it is none of ours.
fs::path checkpoint_of(const fs::path& left_over) {
  const std::string name = left_over.filename().string();
  const std::string checkpoint = name.substr(0, name.find('.'));
  return step_of(checkpoint) ? left_over.parent_path() / checkpoint : fs::path();
}

bool is_replaced(const fs::path& folder) {
  const fs::path checkpoint = checkpoint_of(folder);
  return !checkpoint.empty() && folder.filename() == checkpoint.filename().string() + std::string(kReplacedEnding);
}

}  // namespace

std::string checkpoint_name(int64_t step) { return "checkpoint-" + std::to_string(step); }

std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view prefix = "checkpoint-";
  if (!name.starts_with(prefix)) return std::nullopt;
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return step;
}

std::vector<fs::path> find_checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found = folders_in(output_dir);
  std::erase_if(found,
                [](const fs::path& path) { return !step_of(path.filename()) || !fs::exists(path / kStateFile); });
  std::sort(found.begin(), found.end(),
            [](const fs::path& a, const fs::path& b) { return *step_of(a.filename()) < *step_of(b.filename()); });
  return found;
}

std::vector<fs::path> find_resumable(const fs::path& output_dir) {
  std::vector<fs::path> found = find_checkpoints(output_dir);
  std::erase_if(found, [](const fs::path& path) { return !is_resumable(path); });
  return found;
}

bool is_resumable(const fs::path& checkpoint) {
  return fs::exists(checkpoint / kStatesFile) || (has_manifest(checkpoint) && !is_void(checkpoint));
}
bool has_manifest(const fs::path& checkpoint) { return fs::exists(checkpoint / kManifestFile); }

void mark_void(const fs::path& checkpoint, const SpacePatience& patience) {
  until_synced(patience, [&] {
    write_file(checkpoint / kVoidFile, "The run went on in the place of these bytes.\n", patience);
    sync_folder(checkpoint, patience);
  });
}
bool is_void(const fs::path& checkpoint) { return fs::exists(checkpoint / kVoidFile); }

fs::path begin_checkpoint(const fs::path& output_dir, int64_t step, const SpacePatience& patience) {
  const fs::path partial = partial_of(output_dir, step);
  // Not made anew: perhaps its drive was unmounted.
  if (!fs::is_directory(output_dir)) throw_file_error(output_dir, "open", ENOENT);
  fs::remove_all(partial);
  make_folders(partial, patience);
  return partial;
}

fs::path commit_checkpoint(const fs::path& output_dir, int64_t step, const SpacePatience& patience) {
  const fs::path partial = partial_of(output_dir, step), whole = output_dir / checkpoint_name(step);
  sync_folders(partial, patience);
  const fs::path before = put_in_place(partial, whole, patience);
  sync_folder(output_dir, patience);
  if (!before.empty()) remove_for_good(before, whole);
  return whole;
}

void remove_checkpoint(const fs::path& checkpoint, const SpacePatience& patience) {
  const fs::path aside = put_aside(checkpoint, kRemovedEnding, patience);
  until_synced(patience, [&] { sync_folder(checkpoint.parent_path(), patience); });
  std::error_code ignored;
  fs::remove_all(aside, ignored);
}

std::vector<fs::path> find_partial_checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found = folders_in(output_dir);
  std::erase_if(found, [](const fs::path& path) {
    if (is_replaced(path)) return !fs::exists(checkpoint_of(path));
    return !path.filename().string().ends_with(kPartialEnding) || checkpoint_of(path).empty();
  });
  return found;
}

std::vector<fs::path> find_replaced_checkpoints(const fs::path& output_dir) {
  std::vector<fs::path> found = folders_in(output_dir);
  std::erase_if(found, [](const fs::path& path) { return !is_replaced(path) || fs::exists(checkpoint_of(path)); });
  return found;
}

void restore_replaced_checkpoints(const fs::path& output_dir) {
  const std::vector<fs::path> replaced = find_replaced_checkpoints(output_dir);
  for (const fs::path& each : replaced) rename_in_place(each, checkpoint_of(each));
  if (!replaced.empty()) sync_folder(output_dir);
}

void remove_partial_checkpoints(const fs::path& output_dir) {
  restore_replaced_checkpoints(output_dir);
  for (const fs::path& each : find_partial_checkpoints(output_dir)) fs::remove_all(each);
}

}  // namespace sluice::train
