// Whether a path still means the file that was opened by it.
#pragma once

#include <filesystem>

namespace sluice {

// False where the path leads to another file by now, or to none: removed, replaced, unmounted, mounted over.
bool leads_to(const std::filesystem::path& path, int fd);

// Keeps a folder open, so that no other one can be taken for it.
class OpenFolder {
 public:
  explicit OpenFolder(std::filesystem::path folder);
  ~OpenFolder();
  OpenFolder(const OpenFolder&) = delete;
  OpenFolder& operator=(const OpenFolder&) = delete;

  // Whether its path still leads to it. Not when there was none.
  bool stays() const { return fd_ >= 0 && leads_to(folder_, fd_); }

 private:
  const std::filesystem::path folder_;
  const int fd_;
};

}  // namespace sluice
