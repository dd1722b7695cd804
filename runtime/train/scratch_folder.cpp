#include "runtime/train/scratch_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "runtime/core/result.h"
#include "runtime/train/partial_folder.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = ".sluice-scratch-";

fs::path folder_around(const fs::path& path) {
  fs::path folder = fs::absolute(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  do folder = folder.parent_path();
  while (!fs::is_directory(folder) && folder.has_relative_path());
  return folder;
}

fs::path new_folder(const fs::path& around) {
  std::string name = (around / (std::string(kPrefix) + "XXXXXX")).string();
  if (::mkdtemp(name.data()) == nullptr)
    throw SetupError(around.string() + ": cannot make a folder in it: " + std::strerror(errno),
                     "profiling writes its swap files beside output_dir: make that folder writable, or set output_dir");
  return name;
}

}  // namespace

ScratchFolder::ScratchFolder(const fs::path& beside)
    : path_((remove_left_over(folder_around(beside), kPrefix), new_folder(folder_around(beside)))), lock_(path_) {
  lock_.make_and_lock();
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace sluice::train
