// The folders `output_dir/checkpoint-N`: their names, what is in them, which can be resumed from. A folder with such a
// name is whole; one that is being written or removed has another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/core/space_wait.h"

namespace sluice::train {

inline constexpr const char* kStateFile = "trainer_state.json";
inline constexpr const char* kChecksumsFile = "checksums.json";
inline constexpr const char* kStatesFile = "optimizer.safetensors";   // of one that is complete in itself
inline constexpr const char* kManifestFile = "manifest.json";         // of one whose bytes stayed in swap files
inline constexpr const char* kResidentFile = "resident.safetensors";  // the rest of those, from memory

inline constexpr const char* kVoidFile = "void";  // of one in place: its bytes are gone

std::string checkpoint_name(int64_t step);
std::optional<int64_t> step_of(const std::string& name);

// Oldest first.
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& output_dir);
// Those with states, or with a manifest that is not void.
std::vector<std::filesystem::path> find_resumable(const std::filesystem::path& output_dir);
bool is_resumable(const std::filesystem::path& checkpoint);
bool has_manifest(const std::filesystem::path& checkpoint);

// A checkpoint in place, whose bytes the run is about to overwrite. Blocks until the drive has it. Throws RunError.
void mark_void(const std::filesystem::path& checkpoint, const SpacePatience& patience = {});
bool is_void(const std::filesystem::path& checkpoint);

// Where a checkpoint is written; made empty. Throws RunError.
std::filesystem::path begin_checkpoint(const std::filesystem::path& output_dir, int64_t step,
                                       const SpacePatience& patience);
// Gives it its name, in place of an older one of that name: one of the two has it at any moment, but on file systems
// that cannot exchange names (NFS is one). When it returns, it is on the drive. Throws RunError.
std::filesystem::path commit_checkpoint(const std::filesystem::path& output_dir, int64_t step,
                                        const SpacePatience& patience = {});
// From its first moment on, the folder is no checkpoint any more, whatever happens. Throws RunError.
void remove_checkpoint(const std::filesystem::path& checkpoint, const SpacePatience& patience = {});

// Those that a killed run had put aside to put another in their place, and did not: where names cannot be exchanged.
std::vector<std::filesystem::path> find_replaced_checkpoints(const std::filesystem::path& output_dir);
// Gives them their names back: before a run that holds the folder looks for checkpoints. Throws RunError.
void restore_replaced_checkpoints(const std::filesystem::path& output_dir);

// What killed runs left half written or half removed.
std::vector<std::filesystem::path> find_partial_checkpoints(const std::filesystem::path& output_dir);
void remove_partial_checkpoints(const std::filesystem::path& output_dir);

}  // namespace sluice::train
