#include "runtime/train/swap_owner.h"

#include <sys/vfs.h>

#include <cstdio>
#include <fstream>
#include <iterator>

#include "runtime/train/durable_folders.h"
#include "runtime/train/output_file.h"
#include "runtime/train/swap_folders.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEnding = ".output";

fs::path record_of(fs::path swap_file) { return swap_file.replace_extension(kEnding); }

// One name, which what a kill leaves is written over by: the swap folder is locked.
fs::path fresh_record_of(const fs::path& swap_file) { return record_of(swap_file) += ".partial"; }

std::string text_of(const fs::path& file) {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// Of the folder, or of the nearest one that is there. Empty where the file system has no name.
std::string file_system_of(const fs::path& folder) {
  struct statfs about {};
  if (statfs(nearest_existing(folder).c_str(), &about) != 0) return {};
  const auto [first, second] = about.f_fsid.__val;
  if (first == 0 && second == 0) return {};
  char name[24];
  std::snprintf(name, sizeof name, "%08x%08x", static_cast<unsigned>(first), static_cast<unsigned>(second));
  return name;
}

// Relative to the swap folder where that lies inside: a job's folder may be moved.
fs::path named_from(const fs::path& swap_file, const fs::path& output_dir) {
  const fs::path folder = fs::weakly_canonical(swap_file.parent_path()), output = fs::weakly_canonical(output_dir);
  const fs::path inside = folder.lexically_relative(output);
  const bool moves_along = !inside.empty() && *inside.begin() != "..";
  return moves_along ? output.lexically_relative(folder) : fs::absolute(output_dir).lexically_normal();
}

}  // namespace

bool SwapOwner::is_away() const {
  if (file_system.empty()) return false;
  const std::string now = file_system_of(output_dir);
  return !now.empty() && now != file_system;
}

bool SwapOwner::is(const fs::path& other) const {
  std::error_code failed;
  return output_dir == fs::absolute(other).lexically_normal() || fs::equivalent(output_dir, other, failed);
}

// Two lines: the output_dir, its file system.
SwapOwner owner_of(const fs::path& swap_file) {
  const std::string text = text_of(record_of(swap_file));
  const size_t end = text.find('\n');
  const fs::path output = text.substr(0, end);
  if (output.empty()) return {};
  SwapOwner owner{output.is_absolute() ? output : (swap_file.parent_path() / output).lexically_normal(), {}};
  if (end != std::string::npos) owner.file_system = text.substr(end + 1, text.find('\n', end + 1) - end - 1);
  return owner;
}

void record_owner(const fs::path& swap_file, const fs::path& output_dir, const SpacePatience& patience) {
  const std::string text = named_from(swap_file, output_dir).string() + "\n" + file_system_of(output_dir) + "\n";
  const fs::path record = record_of(swap_file);
  if (text_of(record) == text) return;
  const fs::path fresh = fresh_record_of(swap_file);
  until_synced(patience, [&] {
    write_file(fresh, text, patience);
    fs::permissions(fresh, fs::perms::owner_read | fs::perms::owner_write);
    rename_in_place(fresh, record, patience);
    sync_folder(record.parent_path(), patience);
  });
}

void remove_owner(const fs::path& swap_file) {
  std::error_code ignored;
  fs::remove(record_of(swap_file), ignored);
  fs::remove(fresh_record_of(swap_file), ignored);
}

}  // namespace sluice::train
