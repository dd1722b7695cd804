#include "runtime/train/swap_folders.h"

#include <algorithm>
#include <cstdio>

#include "runtime/core/result.h"

namespace sluice::train {

namespace fs = std::filesystem;

fs::path nearest_existing(fs::path path) {
  std::error_code failed;
  path = fs::absolute(path);
  while (!fs::exists(path, failed) && path != path.parent_path()) path = path.parent_path();
  return path;
}

Bytes free_disk(const std::vector<fs::path>& paths) {
  Bytes sum;
  for (const fs::path& path : paths) sum += Bytes{static_cast<int64_t>(fs::space(nearest_existing(path)).available)};
  return sum;
}

void check_nvme_paths(const Config& config) {
  const std::vector<fs::path>& paths = config.offload.nvme_path;
  for (auto path = paths.begin(); path != paths.end(); ++path) {
    const fs::path whole = fs::weakly_canonical(*path);
    if (std::any_of(paths.begin(), path, [&](const fs::path& other) { return fs::weakly_canonical(other) == whole; }))
      throw SetupError(config.file.string() + ": offload.nvme_path names " + path->string() + " twice",
                       "name each folder once, one per drive");
    if (!fs::exists(*path) && *path != config.output_dir)
      std::fprintf(stderr, "note: offload.nvme_path %s is not there: it is made, on the drive of %s\n", path->c_str(),
                   nearest_existing(*path).c_str());
  }
}

swap::SwapOptions swap_options(const Config& config) {
  swap::SwapOptions options;
  options.nvme_paths = config.offload.nvme_path;
  options.patience = SpacePatience::of(config.offload.enospc_timeout);
  if (config.offload.io_backend == "uring") options.backend = swap::BackendKind::uring;
  if (config.offload.io_backend == "thread") options.backend = swap::BackendKind::thread;
  return options;
}

}  // namespace sluice::train
