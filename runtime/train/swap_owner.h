// Whose a kept swap file is: `<job>.output` beside `<job>.extents` names the output_dir to ask before the file may go.
#pragma once

#include <filesystem>
#include <string>

#include "runtime/core/space_wait.h"

namespace sluice::train {

struct SwapOwner {
  std::filesystem::path output_dir;  // empty: its job never came to a checkpoint
  std::string file_system;           // that the output_dir lies on; empty: nobody knows

  // Another file system is there now: the drive may not be mounted.
  bool is_away() const;
  bool is(const std::filesystem::path& output_dir) const;
};

SwapOwner owner_of(const std::filesystem::path& swap_file);
// Written before the first checkpoint names the file; what says so already stays as it is. Throws RunError.
void record_owner(const std::filesystem::path& swap_file, const std::filesystem::path& output_dir,
                  const SpacePatience& patience = {});
void remove_owner(const std::filesystem::path& swap_file);

}  // namespace sluice::train
