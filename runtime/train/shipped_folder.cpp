#include "runtime/train/shipped_folder.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/core/result.h"

namespace sluice::train {
namespace {

namespace fs = std::filesystem;

// The library that holds this, or the binary.
fs::path folder_of_this_code() {
  Dl_info place{};
  if (dladdr(reinterpret_cast<const void*>(&folder_of_this_code), &place) == 0) return {};
  return fs::path(place.dli_fname).parent_path();
}

}  // namespace

fs::path find_shipped(const ShippedFolder& folder) {
  std::vector<fs::path> candidates;
  const char* named = std::getenv(folder.variable);
  if (named != nullptr && *named != '\0')
    candidates = {named};
  else
    candidates = {fs::read_symlink("/proc/self/exe").parent_path() / folder.name, folder_of_this_code() / folder.name,
                  folder.source};
  std::string looked;
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate / folder.file)) return candidate;
    looked += (looked.empty() ? "" : " and ") + candidate.string();
  }
  throw SetupError(
      std::string(folder.what) + " not there: no " + folder.file + " in " + looked,
      std::string("set ") + folder.variable + " to the folder runtime/" + folder.name + " of Sluice's source");
}

}  // namespace sluice::train
