// The folder that a run writes its result to: one run's at a time, and the same one until the end.
#pragma once

#include <filesystem>

namespace sluice::train {

class OutputFolder {
 public:
  explicit OutputFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  // Locks it where it exists; the lock goes with the process, however that ends. Where the file system knows no locks
  // that is noted. Throws SetupError naming the process that holds it.
  void lock_if_there();
  // Makes it first.
  void make_and_lock();
  // Whether the path leads to what was locked: not removed, not unmounted, nothing mounted over it.
  bool is_in_place() const;
  void check_in_place() const;  // throws RunError

 private:
  std::filesystem::path folder_;
  int fd_ = -1;
};

}  // namespace sluice::train
