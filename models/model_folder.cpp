#include "models/model_folder.h"

#include "runtime/core/result.h"

namespace sluice::models {

namespace fs = std::filesystem;

namespace {

bool is_inside(const fs::path& path, const fs::path& folder) {
  const fs::path relative = path.lexically_relative(folder);
  return !relative.empty() && *relative.begin() != ".." && relative != ".";
}

}  // namespace

std::optional<fs::path> place_outside(const fs::path& folder, const fs::path& file) {
  const fs::path real = fs::canonical(file), own = fs::canonical(folder);
  if (is_inside(real, own)) return std::nullopt;
  const fs::path hub = own.parent_path().filename() == "snapshots" ? own.parent_path().parent_path() : fs::path();
  if (!hub.empty() && is_inside(real, hub / "blobs")) return std::nullopt;
  return real;
}

void refuse_link_out(const fs::path& folder, const fs::path& name) {
  const fs::path file = folder / name;
  std::error_code code;
  if (!fs::exists(file, code)) return;
  if (const std::optional<fs::path> outside = place_outside(folder, file))
    throw SetupError(file.string() + ": a link that leaves its folder (to " + outside->string() + ")",
                     "put the file itself into the folder");
}

}  // namespace sluice::models
