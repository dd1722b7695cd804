// Where extents lie: one preallocated file per nvme_path, in a folder that one process owns at a time.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "runtime/core/units.h"

namespace sluice::swap {

// The folder `sluice-swap` (0700) in an nvme_path, made where it is not there, and its lock. Removed at the end when
// nothing is left in it.
class SwapFolder {
 public:
  // Throws SetupError: folder missing, not writable, in use by another process (named).
  explicit SwapFolder(const std::filesystem::path& nvme_path);
  ~SwapFolder();
  SwapFolder(const SwapFolder&) = delete;
  SwapFolder& operator=(const SwapFolder&) = delete;

  const std::filesystem::path& path() const { return folder_; }
  static std::filesystem::path in(const std::filesystem::path& nvme_path);

 private:
  std::filesystem::path folder_;
  int lock_fd_ = -1;
};

// What to do with a file of that name that is there already: one that a dead owner left, or one that holds what
// checkpoints name, to be used further (all of it is reserved again) or to be made smaller.
enum class OldFile { replace, adopt, shrink };

// A file (0600) in such a folder.
class SwapFile {
 public:
  // Throws SetupError as SwapFolder, or when the file cannot be made or, adopted, is no plain file or has no room on
  // the drive any more.
  SwapFile(const std::filesystem::path& nvme_path, const std::string& name, OldFile old_file);
  ~SwapFile();  // removes the file unless `keep`
  SwapFile(const SwapFile&) = delete;
  SwapFile& operator=(const SwapFile&) = delete;

  // Extends the file; the offset of what is new. Throws SetupError with what is needed and free.
  int64_t reserve(int64_t bytes, std::string_view tag);
  int64_t bytes() const { return end_; }
  // Whether the file stays at the end, and without which ranges (offset -> bytes): their space goes back to the drive.
  void keep(bool keeps, std::map<int64_t, int64_t> without);
  // Everything written so far survives a power cut, and so do the file's name and length. errno, or 0; ENOENT also
  // where somebody has taken the name away: nobody will find the bytes again.
  int sync();
  int fd() const { return fd_; }
  bool direct() const { return direct_; }
  const std::filesystem::path& path() const { return file_; }

 private:
  void open_old(OldFile old_file);
  void open_new();

  SwapFolder folder_;
  std::filesystem::path file_;
  int fd_ = -1;
  bool direct_ = true, keeps_ = false, named_ = false;
  int64_t end_ = 0;
  std::map<int64_t, int64_t> without_;
};

}  // namespace sluice::swap
