// A model's or an adapter's folder, which may come from strangers: its files are its own, not links to others'.
#pragma once

#include <filesystem>
#include <optional>

namespace sluice::models {

// Where `file`, by a link in its path, lies outside `folder`; nothing: inside. The links of the hub's cache,
// snapshots/<revision>/<file> to blobs/<hash>, count as inside. Both must be there.
std::optional<std::filesystem::path> place_outside(const std::filesystem::path& folder,
                                                   const std::filesystem::path& file);

// Throws SetupError when folder/name is there and lies outside.
void refuse_link_out(const std::filesystem::path& folder, const std::filesystem::path& name);

}  // namespace sluice::models
