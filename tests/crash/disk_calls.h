// System calls as what they mean to a VolatileDisk.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "tests/crash/volatile_disk.h"
#include "tests/crash/watched_process.h"

namespace sluice::crash {

// Not thread-safe.
class DiskCalls {
 public:
  explicit DiskCalls(VolatileDisk& disk) : disk_(disk) {}

  // Before a call. Its text when it changes or syncs something on the disk, as "fsync out/model.safetensors"; else
  // empty. Throws std::runtime_error: the program changes files in a way that the disk does not model.
  std::string starts(const SystemCall& call);
  // After a call that was not the last.
  void ends(const SystemCall& call, int64_t result);

 private:
  using End = std::function<void(int64_t result)>;

  std::string begin(const SystemCall& call, End& end);
  std::string begin_write(const SystemCall& call, size_t fd, int64_t offset, int64_t bytes, End& end);
  std::string begin_resize(const std::filesystem::path& file, int64_t bytes, End& end);
  std::string begin_sync(const SystemCall& call, End& end);
  std::string begin_open(const std::filesystem::path& path, uint64_t flags, End& end);
  std::string begin_make_folder(const std::filesystem::path& path, End& end);
  std::string begin_rename(const std::filesystem::path& from, const std::filesystem::path& to, End& end);
  std::string begin_exchange(const std::filesystem::path& one, const std::filesystem::path& other, End& end);
  std::string begin_link(const std::filesystem::path& from, const std::filesystem::path& to, End& end);
  std::string begin_remove(const std::filesystem::path& path, End& end);

  VolatileDisk& disk_;
  std::map<pid_t, End> ends_;  // of the call that each thread is in
};

}  // namespace sluice::crash
