// manifest.json: a checkpoint whose bytes stayed where training wrote them. It names, for every trained group's weights
// and every chunk of its states that live on disk, the pieces of the swap files that hold them, with their checksums.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/state_layout.h"
#include "runtime/core/work.h"

namespace sluice::train {

// A range of a swap file. 4096-byte aligned, as its length.
struct ManifestPiece {
  int file = 0;  // into Manifest::files
  int64_t offset = 0, bytes = 0;
  uint64_t digest = 0;  // XXH3
};

// `count` numbers of one part of a group's states from the group's number `begin` on, `offset` bytes into the extent.
struct ManifestPart {
  std::string name, dtype;  // name_of(StatePart), name_of(Dtype)
  int64_t begin = 0, count = 0, offset = 0;
  bool operator==(const ManifestPart&) const = default;
};

// Of the states of elements [begin, end).
std::vector<ManifestPart> parts_of(const StateLayout& layout, int64_t begin, int64_t end);

struct ManifestExtent {
  std::string name;                 // the plan's buffer
  std::string group;                // the model's
  int64_t begin = 0, end = 0;       // elements of the group
  int64_t bytes = 0;                // what is meant; the last piece may be longer
  std::vector<ManifestPart> parts;  // of states; empty: weights, in the job's compute dtype
  std::vector<ManifestPiece> pieces;
};

struct Manifest {
  std::vector<std::filesystem::path> files;  // swap files, absolute
  std::vector<ManifestExtent> extents;
};

// `checkpoint`: the folder that it will lie in. Swap files inside the output_dir are also named from there, so that a
// job's folder can be moved.
std::string to_json(const Manifest& manifest, const std::filesystem::path& checkpoint);
// Throws SetupError without a hint: missing, or not what to_json writes.
Manifest read_manifest(const std::filesystem::path& checkpoint);
Manifest parse_manifest(std::string_view text, const std::filesystem::path& checkpoint);

// Reads every piece once, several at a time: those that are not what was frozen, with file, bytes and what they are of.
// Stops at `most`.
std::vector<std::string> find_damage(const Manifest& manifest, size_t most, const Advance& verified = {});

int64_t bytes_of(const Manifest& manifest);

}  // namespace sluice::train
