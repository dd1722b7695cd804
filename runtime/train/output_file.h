// Files of a result, a checkpoint or a log as they are written: every failure names the file and what to do, and a full
// file system is waited for, as long as the patience lasts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "runtime/core/result.h"
#include "runtime/core/space_wait.h"
#include "runtime/train/checksums.h"

namespace sluice::train {

// Not thread-safe. Calls block, on a full file system too. All throw RunError.
class OutputFile {
 public:
  // Created, or emptied.
  explicit OutputFile(std::filesystem::path path, const SpacePatience& patience = {});
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;

  // Takes the place of `bytes` where the file system can.
  void reserve(Bytes bytes);
  void write(int64_t offset, std::span<const std::byte> bytes);
  void append(std::string_view text);
  // Throws NoRoomAtSync on a full file system: the waiting is until_synced's.
  void sync();
  const std::filesystem::path& path() const { return path_; }
  int64_t end() const { return end_; }  // behind the last byte written

 private:
  // Throws, unless `error` says that there is no space, the patience lasts, and it has waited: then try again.
  void wait_for_space_or_throw(const char* what, int error, int64_t needed);

  // The calls themselves.
  ssize_t write_some(int64_t offset, std::span<const std::byte> bytes) const;
  int allocate(Bytes bytes) const;

  std::filesystem::path path_;
  SpaceWait space_;
  std::shared_ptr<CallWatch> watch_;
  int fd_ = -1;
  int64_t end_ = 0;
};

// A full file system that was only met by a sync: what had been written before may be lost, and is to be written again.
class NoRoomAtSync : public RunError {
 public:
  NoRoomAtSync(const std::filesystem::path& file, Bytes needed, int error);
  const std::filesystem::path& file() const { return file_; }
  Bytes needed() const { return needed_; }

 private:
  std::filesystem::path file_;
  Bytes needed_;
};

// Calls `write`, which writes and syncs, and where a sync found no room waits for it and calls `write` again. Throws
// RunError, when the patience has ended too.
void until_synced(const SpacePatience& patience, const std::function<void()>& write);

// Writes a whole small file and syncs it. Throws RunError.
void write_file(const std::filesystem::path& path, std::string_view text, const SpacePatience& patience = {});
// The same with another file's content.
FileSums write_copy(const std::filesystem::path& from, const std::filesystem::path& to,
                    const SpacePatience& patience = {});

// "FILE: what: errno in words" with what to do about it.
[[noreturn]] void throw_file_error(const std::filesystem::path& file, const char* what, int error);

}  // namespace sluice::train
