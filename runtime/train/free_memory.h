// How much memory this process has, and may still take.
#pragma once

#include <filesystem>
#include <optional>

#include "runtime/core/units.h"

namespace sluice::train {

// Of this process, now: code, libraries, their caches, thread stacks, and what is allocated.
Bytes resident_bytes();

// What the system has left, or the tightest memory cgroup (v2) around this process if that is less: a container's
// limit, a batch system's. Page cache counts as free. `root`: where /proc and /sys are, for tests.
Bytes free_memory(const std::filesystem::path& root = "/");

// What the tightest memory cgroup (v2) around this process allows it; nothing: no limit.
std::optional<Bytes> memory_limit(const std::filesystem::path& root = "/");

}  // namespace sluice::train
