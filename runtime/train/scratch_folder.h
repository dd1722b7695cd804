// A folder for a run that keeps nothing: gone when the run has ended, however it ended.
#pragma once

#include <filesystem>

#include "runtime/train/output_folder.h"

namespace sluice::train {

class ScratchFolder {
 public:
  // On the drive of `beside`, which need not exist: in the nearest folder around it that does. Removes those there that
  // runs that were killed have left. Throws SetupError.
  explicit ScratchFolder(const std::filesystem::path& beside);
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const OutputFolder& lock() const { return lock_; }

 private:
  std::filesystem::path path_;
  OutputFolder lock_;
};

}  // namespace sluice::train
