// Folders that are somebody's as long as they are locked. The lock goes with its process, however that ends and
// wherever it runs: containers that share a drive have processes of equal numbers, and see none of the others'.
#pragma once

#include <filesystem>
#include <string_view>

namespace sluice::train {

// Removes folders in `around` whose names begin so and that nobody holds. What cannot be locked or removed stays.
void remove_left_over(const std::filesystem::path& around, std::string_view prefix);

// A folder that is filled under another name and gets its own when it is whole. Any number of makers may be at it, each
// in a folder of its own.
class PartialFolder {
 public:
  // Beside `whole`, in a folder that is there. Removes what makers that were killed have left. Throws RunError.
  explicit PartialFolder(const std::filesystem::path& whole);
  ~PartialFolder();  // removes it unless it was published
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // When it returns, the name is on the drive. Where another maker was faster, that one's folder stays. Throws
  // RunError.
  void publish();

 private:
  bool make_and_lock();

  std::filesystem::path whole_, path_;
  int fd_ = -1;
};

}  // namespace sluice::train
