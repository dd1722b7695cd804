// libsluice_runtime.so beside the binary: opened when a command computes, so that the others start at once.
#pragma once

#include "runtime/train/entry.h"

namespace sluice::cli {

// Opened once and never closed. Throws SetupError: absent, not loadable, from another build.
const train::EntryTable& runtime_library();

}  // namespace sluice::cli
