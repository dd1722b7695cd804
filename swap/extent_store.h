// Where extents lie: one preallocated file per nvme_path, cut into pieces that alternate between the paths.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/units.h"

namespace sluice::swap {

struct Piece {
  int path = 0;
  int64_t offset = 0;     // in that path's file
  int64_t bytes = 0;      // a multiple of 4096
  uint64_t checksum = 0;  // XXH3 of what was last written
};

struct Extent {
  int64_t bytes = 0;  // as asked
  bool written = false;
  std::vector<Piece> pieces;
};

// A folder `sluice-swap` (0700), locked; in it one file (0600), created anew. Both are removed at the end.
class SwapFile {
 public:
  // Throws SetupError: folder missing, not writable, in use by another process (named).
  explicit SwapFile(const std::filesystem::path& nvme_path);
  ~SwapFile();
  SwapFile(const SwapFile&) = delete;
  SwapFile& operator=(const SwapFile&) = delete;

  // Extends the file. Throws SetupError with what is needed and free.
  int64_t reserve(int64_t bytes, std::string_view tag);
  int fd() const { return fd_; }
  bool direct() const { return direct_; }
  const std::filesystem::path& path() const { return file_; }

 private:
  std::filesystem::path folder_, file_;
  int lock_fd_ = -1, fd_ = -1;
  bool direct_ = true;
  int64_t end_ = 0;
};

}  // namespace sluice::swap
