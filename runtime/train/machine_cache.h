// What this host can do: measured once, kept in ${XDG_CACHE_HOME:-$HOME/.cache}/sluice until the hardware changes or a
// month has passed.
#pragma once

#include "runtime/train/entry.h"

namespace sluice::train {

// `sluice probe`.
int run_probe(const ProbeOptions& options);

}  // namespace sluice::train
